"""How well models do on labelled text: a merge beside its parents, their plain average and their ensembles.

kind            what a kind of task is: which models it fits, what they answer, how answers are counted
classification, token_classification, language_modelling: one file each
labels          label names of data and models, matched by name
bootstrap       intervals of every figure, paired against the average
closeness       how close an example is to what a parent's Gram was collected from
ensembles       the parents' answers together
answers         what a model said, on disk
comparison      one run: each model is loaded once and reads every set
"""

"""A merge's report as the product writes it: the evaluation of three skills and where its models differ."""

from typing import Any

TASKS = ("banking", "emotion", "subjectivity")
OWN = {"banking": 0.884, "emotion": 0.646, "subjectivity": 0.921}
AVERAGE = {"banking": 0.512, "emotion": 0.481, "subjectivity": 0.893}
MERGE = {"banking": 0.796, "emotion": 0.612, "subjectivity": 0.897}


def score(
    who: str, title: str, value: float, *, task: str = "", metric: str = "accuracy", **more: Any
) -> dict[str, Any]:
    """One model's figures on a set, with an interval of six points."""
    metrics = {metric: value} | ({"macro_f1": value - 0.02} if metric == "accuracy" else {})
    low = {name: one - 0.03 for name, one in metrics.items()}
    high = {name: one + 0.03 for name, one in metrics.items()}
    return {"who": who, "title": title, "task": task, "metrics": metrics, "low": low, "high": high} | more


def evaluation() -> dict[str, Any]:
    """Three labelled sets, each in the domain of one parent, and a text that none of them saw."""
    sets = []
    for task in TASKS:
        difference = MERGE[task] - AVERAGE[task]
        against = {"accuracy": [difference, difference - 0.03, difference + 0.03]}
        scores = [
            score("parent", f"ana/minilm-{task}", OWN[task], task=task),
            score("average", "Average", AVERAGE[task], task=task),
            score("merge", "RegMean", MERGE[task], task=task, against_average=against),
        ]
        sets.append(a_set(task, scores, in_domain=[task], head=task))
    words = [
        score("parent", "ana/writer", 31.2, metric="perplexity"),
        score("average", "Average", 44.0, metric="perplexity"),
        score("ensemble", "Ensemble", 29.8, metric="perplexity"),
        score("instance-wise", "Instance-wise ensemble", 900.0, metric="perplexity"),
        score("merge", "RegMean", 30.4, metric="perplexity", against_average={"perplexity": [-13.6, -15.0, -12.0]}),
    ]
    out = a_set("news", words, metric="perplexity", kind="language-modelling", better="lower")
    return {"sets": [*sets, out], "seconds": 31.0, "notes": ["The ensemble needs models with the same labels."]}


def a_set(name: str, scores: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A set with its scores."""
    return {
        "name": name,
        "data": f"ana/{name}:test",
        "revision": "0" * 40,
        "kind": "classification",
        "metric": "accuracy",
        "better": "higher",
        "examples": 500,
        "in_domain": [],
        "head": "",
        "scores": scores,
    } | more


def differences() -> dict[str, Any]:
    """Six layers and seven blocks of three models; one block that the embeddings do not have is empty."""
    layers = ["embeddings", *(str(index) for index in range(6)), "head"]
    blocks = ["attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down", "norm"]
    models = [
        {
            "model": f"ana/minilm-{task}",
            "distance": 0.021 * (place + 1),
            "cells": [
                [
                    None if layer == "embeddings" and block < 6 else 0.004 * (row + 1) * (place + 1) + 0.002 * block
                    for block in range(len(blocks))
                ]
                for row, layer in enumerate(layers)
            ],
        }
        for place, task in enumerate(TASKS)
    ]
    pairs = [
        {"models": [one, other], "cosine": 0.12 * other, "distance": 0.03 * other, "sign_conflict": 0.31 + 0.05 * one}
        for one in range(3)
        for other in range(one + 1, 3)
    ]
    return {"layers": layers, "blocks": blocks, "models": models, "pairs": pairs, "reference": "base", "notes": []}

"""What the pages with a form do in the browser itself: between an answer's arrival and its showing, a person may type.

An *offer* is what the server would like to write into fields that people write into too: by field, its `value`, and
`over`, the text that it may replace although the form did not write it. Check and write are one step without a pause
in between, so that no keystroke is lost, and what the button sends is what the field shows.
"""

from ui.previews import TITLE

OPEN = """() => {
    window.mergePage = {wrote: {}, picks: 0, turn: 0}  // written by the form; choices in the search; previews
    window.mergePage.address = (link, nonce) => {
        const {wrote, submitted} = window.mergePage
        if (link === undefined || (submitted && submitted.nonce !== nonce)) return  // asked before it was submitted
        const address = link === submitted?.link ? submitted.job : link
        if (address || location.pathname + location.search === wrote.address) {
            history.replaceState(history.state, '', address || '/')
            wrote.address = address
        }
    }
    const search = (event) => event.target.closest?.('#search')
    document.addEventListener('input', (event) => { if (search(event)) window.mergePage.picks++ }, true)
    document.addEventListener('pointerdown', (event) => {
        if (event.target.closest?.('[role=option]')) window.mergePage.picks++
    }, true)
    document.addEventListener('keydown', (event) => {
        if (search(event) && event.key.startsWith('Arrow')) window.mergePage.picks++
    }, true)
    const name = (field, model) => {
        const label = field.closest('label')
        const words = (label?.querySelector('[data-testid=block-info]') ?? label ?? field).textContent
        const short = words.replace('▼', '').trim()
        field.setAttribute('aria-label', field.id.startsWith('remove') ? `${short} ${model}` : `${short} of ${model}`)
    }
    const names = () => document.querySelectorAll('.mm-model-row').forEach((row) => {
        const fields = row.querySelectorAll('input, textarea, button')
        fields.forEach((field) => name(field, row.id.replace('row-', 'model ')))
    })
    new MutationObserver(names).observe(document.body, {childList: true, subtree: true})
    names()
}"""  # eight rows have the same labels: only together with the row's number is a field's name its own

SETTLE = """(offer, root) => {
    const page = window.mergePage, {wrote} = page
    const fields = {name: '#repo-name textarea', owner: '#owner input', yaml: '#yaml textarea', base: '#base input'}
    const take = (key) => {
        const wish = offer?.[key], field = document.querySelector(fields[key]), now = field?.value ?? ''
        const left = field !== document.activeElement && (now === '' || now === wrote[key])
        if (!wish || !(left || now === wish.over)) return undefined
        wrote[key] = wish.theirs ? '' : wish.value
        return wish.value
    }
    const roots = offer?.roots
    const rooted = !roots || roots.includes(root) ? undefined : roots[0] ?? null
    const {link, nonce} = offer ?? {}
    if (nonce !== undefined) document.documentElement.classList.remove('mm-filling')  // a preview has come
    page.address(link, nonce)
    const [name, owner, yaml, base] = [take('name'), take('owner'), take('yaml'), take('base')]
    return [wrote.name ?? '', name, owner, rooted, yaml, wrote.base ?? '', base]
}"""

ADDRESS = "(form) => { window.mergePage.address(form?.link, form?.nonce) }"
SUBMITTED = """(submitted) => {
    const page = window.mergePage
    if (!submitted || submitted.nonce === page.submitted?.nonce) return
    page.submitted = submitted
    page.wrote.address = submitted.job
    history.replaceState(history.state, '', submitted.link)  // a preview may still be on its way
    history.pushState(history.state, '', submitted.job)
}"""  # a reload shows the job, the way back the form

COUNTED = "(turn, ...rest) => [++window.mergePage.turn, ...rest]"
PICKS = "() => window.mergePage.picks"


def typed(field: str) -> str:
    """What stands in a search field: Gradio's own event may repeat an older text."""
    return f"() => document.querySelector('#{field} input').value"


def ask_again(field: str) -> str:
    """Search once more for letters that were typed while an answer was on its way."""
    return f"""(asked) => {{
    const input = document.querySelector('#{field} input')
    if (input === document.activeElement && input.value !== asked)
        input.dispatchEvent(new KeyboardEvent('keyup', {{bubbles: true}}))
}}"""


TYPED, ASK_AGAIN = typed("search"), ask_again("search")
PAGE_TITLE = f"""() => {{
    const title = document.querySelector('meta[property="og:title"]').content
    document.title = title.includes('{TITLE}') ? title : `${{title}} · {TITLE}`
}}"""  # Gradio gives every page the same one

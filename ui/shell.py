"""What a page is before the framework's script has run: its header, painted at once, and a script of our own.

The script comes before Gradio's, which closes its streams as soon as a link is clicked, takes what then breaks for a
lost connection, and reloads the page two seconds later: in the middle of a slow sign-in. It takes the shell away when
the header stands in the page itself; a page in a frame, where browsers may block the cookie of the sign-in, shows the
way out of it; a form that a link fills is shown when it is full (for the merge form, `ui.browser.SETTLE` says when),
and a job when it is there, so that nothing jumps; the way back from a job that was reloaded leads to its form (a script
changed the address, so that a browser takes both for one page); a jump stays on its page, however its address is
written; and buttons copy.
"""

NAVIGATION = (("Merge", "/"), ("Jobs", "/jobs"), ("Statistics", "/statistics"), ("Methods", "/methods"))
SCRIPT = """{
addEventListener('beforeunload', (event) => event.stopImmediatePropagation())
const opened = location.pathname
addEventListener('popstate', () => { if (location.pathname !== opened) location.reload() })
if (self !== top) document.documentElement.classList.add('mm-framed')
const page = document.documentElement.classList
page.add('mm-opening')
const one = location.pathname === '/jobs' && /[?&]id=/.test(location.search)
if (one) page.add('mm-one-job')
const fills = {'/': /[?&](recipe|model)=/, '/statistics': /[?&]model=/, '/jobs': /[?&]id=/}[location.pathname]
const full = one ? 'body:has(#job .mm-job) .mm-log, #jobs .mm-problems' : '#found p, #model-note li'
if (fills?.test(location.search)) page.add('mm-filling')
setTimeout(() => page.remove('mm-opening', 'mm-filling'), 10000)
new MutationObserver((changes, watch) => {
    if (document.querySelector('.mm-header .mm-brand')) {
        document.getElementById('mm-shell')?.remove()
        page.remove('mm-opening')
    }
    if (document.querySelector(full)) page.remove('mm-filling')
    if (!page.contains('mm-opening') && !page.contains('mm-filling')) watch.disconnect()
}).observe(document, {childList: true, subtree: true})
addEventListener('click', async (event) => {
    const alone = event.target.closest?.('.mm-alone')
    if (alone) alone.href = location.href
    const jump = event.target.closest?.('.mm-jump'), place = jump && document.getElementById(jump.hash.slice(1))
    if (place) {
        event.preventDefault()
        place.scrollIntoView()
    }
    const button = event.target.closest?.('.mm-copy')
    if (!button) return
    const pre = button.parentElement.querySelector('pre'), words = button.textContent
    try {
        await navigator.clipboard.writeText(pre ? pre.textContent : location.href)
        button.textContent = 'Copied'
    } catch {
        if (pre) getSelection().selectAllChildren(pre)
        button.textContent = pre ? 'Selected: copy it with your keys' : location.href
    }
    setTimeout(() => { button.textContent = words }, 2500)
})
}"""
STYLE = """
#mm-shell { position: absolute; inset: 0 0 auto; box-sizing: border-box; max-width: 1160px; margin: 0 auto;
  padding: 22px clamp(12px, 4vw, 52px); font: 16px/1.5 system-ui, sans-serif; color: #1f2937; }
#mm-shell header { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 20px; }
#mm-shell a { color: inherit; text-decoration: none; padding: 6px 10px; } #mm-shell nav { display: flex; gap: 2px; }
#mm-shell a.mm-brand { font-size: 1.25rem; font-weight: 700; padding: 0; }
#mm-shell .mm-brand span { color: #4f46e5; } #mm-shell p { color: #64748b; }
@media (prefers-color-scheme: dark) {
  html { background: #0f172a; } #mm-shell { color: #f1f5f9; } #mm-shell p { color: #94a3b8; }
}
.mm-alone { display: none } .mm-framed .mm-alone { display: inline }
.mm-opening gradio-app, .mm-filling #about, .mm-filling .mm-columns { visibility: hidden }
@media (max-width: 760px) { .mm-one-job .column:has(> #jobs .mm-list) { display: none !important } }
.mm-filling .mm-header::after { content: 'Filling in the form from the link …'; flex-basis: 100% }
.mm-filling.mm-one-job .mm-header::after { content: 'Looking the job up …' }
"""


def header_html(here: str) -> str:
    """Brand and navigation."""
    links = "".join(
        f'<a href="{path}"{current}>{name}</a>'
        for name, path in NAVIGATION
        for current in (' aria-current="page"' if path == here else "",)
    )
    brand = '<a class="mm-brand" href="/"><span aria-hidden="true">⋈</span> Merge My Models</a>'
    alone = '<a class="mm-alone" href="/" target="_blank" rel="noopener">Open outside of this frame, to sign in</a>'
    return f'<header>{brand}<nav aria-label="Pages">{links}</nav>{alone}</header>'


def at_once(path: str) -> str:
    """The shell of a page: its header, and what is waited for."""
    return f'<div id="mm-shell">{header_html(path)}<p role="status">Opening …</p></div>'

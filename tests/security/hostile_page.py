"""A page of another site: what its scripts try, in the browser of somebody who is signed in to the service."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!doctype html><title>Nothing to see here</title><body>"
ATTACKS = """async ([target, job, index]) => {
  const told = {}
  const tried = async (name, act) => {
    try { told[name] = await act() } catch (error) { told[name] = "refused: " + error.name }
  }
  const wait = (ms) => new Promise((done) => setTimeout(done, ms))
  const join = JSON.stringify({fn_index: index, data: [job], session_hash: "abcdefghijk"})
  const read = async (path, options) => (await fetch(target + path, {credentials: "include", ...options})).text()
  await tried("read config", () => read("/config"))
  await tried("read jobs page", () => read("/jobs"))
  await tried("read stream", () => read("/gradio_api/queue/data?session_hash=abcdefghijk"))
  const json = {"content-type": "application/json"}
  await tried("call json", () => read("/gradio_api/queue/join", {method: "POST", body: join, headers: json}))
  await tried("call text", () => read("/gradio_api/queue/join", {method: "POST", body: join}))
  await tried("call blind", async () => (await fetch(target + "/gradio_api/queue/join",
    {method: "POST", body: join, mode: "no-cors", credentials: "include"})).status)
  await tried("upload blind", async () => {
    const form = new FormData()
    form.append("files", new Blob(["hostile upload"]), "hostile.txt")
    return (await fetch(target + "/gradio_api/upload", {method: "POST", body: form, mode: "no-cors",
      credentials: "include"})).status
  })
  await tried("beacon", () => navigator.sendBeacon(target + "/gradio_api/queue/join", join))
  await tried("event source", () => new Promise((done) => {
    const source = new EventSource(target + "/gradio_api/queue/data?session_hash=abcdefghijk", {withCredentials: true})
    source.onmessage = (event) => done("read: " + event.data)
    source.onerror = () => { source.close(); done("refused") }
  }))
  await tried("web socket", () => new Promise((done) => {
    const socket = new WebSocket(target.replace("http", "ws") + "/gradio_api/queue/join")
    socket.onopen = () => done("open")
    socket.onerror = () => done("refused")
  }))
  await tried("script", () => new Promise((done) => {
    const script = document.createElement("script")
    script.src = target + "/config"
    script.onload = () => done("loaded")
    script.onerror = () => done("refused")
    document.body.append(script)
  }))
  await tried("image of logout", () => new Promise((done) => {
    const image = new Image()
    image.onload = () => done("loaded")
    image.onerror = () => done("refused")
    image.src = target + "/logout"
  }))
  const framed = (path) => new Promise((done) => {
    const frame = document.createElement("iframe")
    frame.src = target + path
    frame.onload = () => {
      addEventListener("message", (event) => done("message: " + JSON.stringify(event.data)))
      frame.contentWindow.postMessage({type: "cancel", job}, "*")
      frame.contentWindow.postMessage({type: "SET_SCROLLING"}, "*")
      let seen = "closed"
      try { seen = frame.contentDocument ? frame.contentDocument.body.innerText : "closed" } catch (error) {}
      setTimeout(() => done("seen: " + seen), 300)
    }
    document.body.append(frame)
  })
  await tried("frame", () => framed("/jobs?id=" + job))
  await tried("frame of logout", () => framed("/logout"))
  await tried("form", async () => {
    const frame = document.createElement("iframe")
    frame.name = "hidden"
    const form = document.createElement("form")
    Object.assign(form, {action: target + "/gradio_api/queue/join", method: "post", target: "hidden",
      enctype: "text/plain"})
    const input = document.createElement("input")
    Object.assign(input, {name: join.slice(0, -1) + ',"x":"', value: '"}'})
    form.append(input)
    document.body.append(frame, form)
    form.submit()
    await wait(500)
    return "sent"
  })
  return told
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hostile_site() -> Iterator[int]:
    """A page without a policy on all names of this machine; gives its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()

// The frame of every page: which view is shown, what the connection is like, the tray of alerts, the keys.

import { AlertTray } from "./alerts.js"
import { CallView } from "./call.js"
import { CallsView } from "./calls.js"
import { attribute, h, text } from "./dom.js"
import { Help } from "./help.js"
import { Live } from "./live.js"
import { SearchView } from "./search.js"
import { State } from "./state.js"
import { Wallboard } from "./wallboard.js"

const state = new State()
const main = document.getElementById("main")
const status = document.getElementById("status")
const tray = new AlertTray(state, document.getElementById("tray"), document.getElementById("alerts-button"))
let view = null
let connection = "lost"
let refusal = ""
let silentMs = 0

const live = new Live(take, (how, why = "") => {
  if (connection === how) return
  if (how === "silent") silentMs = why
  if (connection === "silent" && how === "lost") return // since when stands there already
  connection = how
  refusal = String(why).trim()
  showStatus()
})

function take(message) {
  const changed = state.take(message)
  if (changed.size) {
    view?.update?.(changed)
  }
  view?.take?.(message, changed)
  if (changed.size || message.acknowledged) tray.update()
  showStatus()
}

function showStatus() {
  const { trouble, away_s, hub, reached = 0, last = 0, first = 0 } = state.status
  let kind = "good"
  let words = "Live"
  if (connection === "signed out") [kind, words] = ["bad", "Signed out."]
  else if (connection === "refused") [kind, words] = ["bad", `The monitor refuses: ${refusal}`]
  else if (connection === "offline") [kind, words] = ["bad", "This computer is offline: what stands here is old."]
  else if (connection === "silent") [kind, words] = ["bad", `Nothing was heard for ${lasting(silentMs)}: what stands here is old. Asking for the rest.`]
  else if (connection === "lost") [kind, words] = ["bad", "The connection to the monitor is lost; trying again."]
  else if (trouble) [kind, words] = ["bad", `No news from the hub${away_s ? ` for ${away_s} s` : ""}: ${trouble}`]
  else if (hub) [kind, words] = ["bad", `The hub is in trouble: ${hub}`]
  else if (last - reached > 1000) [kind, words] = ["busy", `Reading the journal: ${Math.floor((100 * (reached - first)) / Math.max(1, last - first))} %`]
  attribute(status, "data-kind", kind)
  if (status.dataset.words === words) return
  status.dataset.words = words
  status.replaceChildren(words, ...(connection === "signed out" ? [" ", h("a", { href: "/login" }, "Sign in")] : []))
}

const lasting = (ms) => (ms < 120_000 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms / 60_000)} min`)

function show() {
  const [path, asked = ""] = location.hash.replace(/^#\/?/, "").split("?")
  const parameters = new URLSearchParams(asked)
  const [page, name] = path.split("/")
  let call = ""
  try {
    call = page === "call" ? decodeURIComponent(name ?? "") : ""
  } catch {
    call = name
  }
  if (view?.stays?.(page, call, parameters)) return
  view?.destroy()
  state.rows.clear()
  if (page === "call" && call) view = new CallView(state, call, parameters)
  else if (page === "search") view = new SearchView(state, parameters)
  else if (page === "wallboard") view = new Wallboard(state)
  else view = new CallsView(state, parameters)
  document.body.dataset.page = page || "calls"
  for (const link of document.querySelectorAll("nav a")) {
    attribute(link, "aria-current", link.dataset.page === (page || "calls") ? "page" : null)
  }
  main.replaceChildren(view.element)
  const title = main.querySelector("h1")?.textContent ?? "Monitor"
  document.title = `${title} · BCAF Stream`
  live.watch(call)
}

const help = new Help(document.getElementById("help-button"))
document.getElementById("skip").addEventListener("click", () => main.focus())
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return
  const target = event.target
  const typing = target.closest("input, select, textarea, [contenteditable]")
  if (typing && !(target.type === "range" || target.type === "checkbox")) return
  if (!help.keysAreOn() && event.key.length === 1) return
  if (event.key === "?") help.open()
  else if (event.key === "/") location.hash = "#/search"
  else if (!view?.key?.(event)) return
  event.preventDefault()
})
window.addEventListener("hashchange", () => {
  show()
  main.focus({ preventScroll: true })
})
// What fails here is said, not only logged: a page that stands still must not look alive.
window.addEventListener("error", (event) => text(status, `This page has failed: ${event.message}. Load it again.`))
show()

// The list of calls. Its order follows the ranking, but never under the pointer or the focus.

import { attribute, h, hidden, order, s, store, stored, text } from "./dom.js"
import { clock, day, EMOTIONS, glyph, percent } from "./emotions.js"
import { addressOf, firing } from "./state.js"

const SORT_MS = 1_000
const SHOWN_OTHERS = 50
const PROTOCOLS = ["link", "twilio", "audiohook", "audio_fork", "audiosocket", "rtp", "pcm", "microphone"]
const TRENDS = { 1: ["▲", "rising"], 0: ["→", "steady"], "-1": ["▼", "falling"] }

export class CallsView {
  constructor(state, parameters) {
    this.state = state
    this.rows = new Map()
    this.shownOthers = SHOWN_OTHERS
    this.pinned = new Set(stored("pinned", []))
    this.paused = false
    this.filter = filterOf(parameters)
    this.body = h("div", { role: "rowgroup", class: "rows" })
    this.otherBody = h("div", { role: "rowgroup", class: "rows" })
    this.held = h("span", { class: "note", hidden: true }, "The order rests while you are in the list.")
    this.waiting = h("span", { class: "note" })
    this.pauseButton = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.pause() }, "Pause updates")
    this.none = h("p", { class: "empty" })
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.showMore() }, "Show more")
    this.element = h(
      "div",
      { class: "page" },
      h("h1", {}, "Live calls"),
      h(
        "p",
        { class: "explain" },
        "Ranked by the share of anger, disgust, fear and sadness in what was said in the last 30 seconds.",
      ),
      this.filters(),
      h("div", { class: "bar" }, this.pauseButton, this.waiting, this.held),
      this.table("Live calls", this.body),
      this.none,
      h("h2", {}, "Calls that are over"),
      this.table("Calls that are over", this.otherBody),
      this.more,
    )
    this.timer = setInterval(() => this.sort(), SORT_MS)
    this.clockTimer = setInterval(() => this.paused || this.rows.forEach((row) => row.tick()), 1_000)
    this.update(new Set(state.rows.keys()))
    this.sort(true)
  }

  destroy() {
    clearInterval(this.timer)
    clearInterval(this.clockTimer)
  }

  table(label, body) {
    const heads = ["", "Negative", "Call", "Last 5 min", "Last words", "Time", "Alerts", "Health"]
    return h(
      "div",
      { role: "table", "aria-label": label, class: "calls" },
      h(
        "div",
        { role: "rowgroup", class: "heads" },
        h("div", { role: "row", class: "row" }, heads.map((head) => h("span", { role: "columnheader" }, head || hidden("Pin")))),
      ),
      body,
    )
  }

  filters() {
    const change = () => {
      const data = new FormData(form)
      this.filter = Object.fromEntries([...data].filter(([, value]) => value))
      history.replaceState(null, "", addressOf("", this.filter))
      this.sort(true)
    }
    const choice = (name, label, values) =>
      h(
        "label",
        {},
        label,
        h(
          "select",
          { name },
          h("option", { value: "" }, "any"),
          values.map((value) => h("option", { value, selected: this.filter[name] === value }, value)),
        ),
      )
    const form = h(
      "form",
      { class: "filters", role: "search", "aria-label": "Filter the calls", oninput: change, onsubmit: (event) => event.preventDefault() },
      h("label", {}, "Name or words", h("input", { type: "search", name: "text", value: this.filter.text })),
      choice("role", "Role", ["customer", "agent", "speaker"]),
      choice("emotion", "Emotion now", EMOTIONS),
      choice("protocol", "Protocol", PROTOCOLS),
      choice("alert", "Alert", ["firing", "none"]),
      choice("health", "Health", ["trouble", "good"]),
    )
    return form
  }

  wanted(row) {
    const { text: words, role, emotion, protocol, alert, health } = this.filter
    const found = words?.toLowerCase()
    return (
      (!found || row.call.toLowerCase().includes(found) || (row.words ?? "").toLowerCase().includes(found)) &&
      (!role || Object.values(row.channels).includes(role)) &&
      (!emotion || row.emotion === emotion) &&
      (!protocol || row.protocol === protocol) &&
      (!health || (health === "trouble") === Boolean(row.gaps || row.degraded)) &&
      (!alert || (alert === "firing") === firing(row).length > 0)
    )
  }

  pause() {
    this.paused = !this.paused
    attribute(this.pauseButton, "aria-pressed", this.paused)
    text(this.pauseButton, this.paused ? "Go on with updates" : "Pause updates")
    this.stale ??= new Set()
    if (!this.paused) {
      const stale = this.stale
      this.stale = null
      text(this.waiting, "")
      this.update(stale)
      this.sort(true)
    }
  }

  update(changed) {
    if (this.paused) {
      for (const name of changed) this.stale.add(name)
      text(this.waiting, `${this.stale.size} calls have changed meanwhile.`)
      return
    }
    for (const name of changed) {
      const row = this.state.rows.get(name)
      if (!row) this.rows.delete(name)
      else if (this.rows.has(name)) this.rows.get(name).show(row)
      else this.rows.set(name, new Row(this, row))
    }
    if ([...changed].some((name) => !this.state.rows.has(name))) this.sort(true)
  }

  // Sorted when nobody points at it or is in it with the keyboard; else what is new comes behind the rest.
  sort(always = false) {
    if (this.paused && !always) return
    const inside = document.activeElement !== document.body && (this.body.contains(document.activeElement) || this.otherBody.contains(document.activeElement))
    const pointed = matchMedia("(hover: hover)").matches && (this.body.matches(":hover") || this.otherBody.matches(":hover"))
    const hold = !always && (inside || pointed)
    this.held.hidden = !hold
    const rows = [...this.rows.values()].filter((row) => this.wanted(row.data))
    const live = rows.filter((row) => row.data.live)
    const others = rows.filter((row) => !row.data.live)
    this.arrange(this.body, live, hold, ranked)
    this.arrange(this.otherBody, others, hold, (a, b) => b.pinned - a.pinned || newest(a, b), this.shownOthers)
    this.more.hidden = others.length <= this.shownOthers
    const filtered = Object.keys(this.filter).length > 0
    text(this.none, live.length ? "" : filtered ? "No live call is like that." : "There is no live call. It appears here by itself.")
  }

  arrange(body, rows, hold, compare, most = Infinity) {
    if (hold) {
      const there = new Set(rows.map((row) => row.element))
      for (const element of [...body.children]) {
        if (!there.delete(element) && !element.contains(document.activeElement)) element.remove()
      }
      rows = rows.filter((row) => there.has(row.element)).sort(compare)
      body.append(...rows.slice(0, Math.max(0, most - body.children.length)).map((row) => row.element))
      return
    }
    order(body, rows.sort(compare).slice(0, most).map((row) => row.element))
  }

  showMore() {
    this.shownOthers += 200
    this.sort(true)
  }

  pin(name) {
    if (!this.pinned.delete(name)) this.pinned.add(name)
    store("pinned", [...this.pinned].slice(-200))
    this.rows.get(name)?.showPin()
  }
}

const filterOf = (parameters) => Object.fromEntries([...parameters].filter(([, value]) => value))
const newest = (a, b) => (BigInt(b.data.seen_at) > BigInt(a.data.seen_at) ? 1 : -1)
const ranked = (a, b) =>
  b.pinned - a.pinned || (b.data.mass ?? -1) - (a.data.mass ?? -1) || a.data.call.localeCompare(b.data.call)

// A call's row; its elements are made when it is first shown, which most calls that are over never are.
class Row {
  constructor(view, data) {
    this.view = view
    this.show(data)
  }

  get element() {
    this.root ??= this.make(this.data.call)
    return this.root
  }

  make(name) {
    const { view } = this
    this.pinButton = h("button", { type: "button", class: "pin", onclick: () => view.pin(name) }, "☆")
    this.meter = s("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" })
    this.fill = s("rect", { height: 8, width: 0 })
    this.meter.append(s("rect", { class: "trough", height: 8, width: 100 }), this.fill)
    this.mass = h("span", { class: "mass" })
    this.arrow = h("span", { class: "arrow", "aria-hidden": "true" })
    this.trend = h("span", { class: "sr" })
    this.link = h("a", { href: addressOf(`call/${encodeURIComponent(name)}`) }, name)
    this.roles = h("span", { class: "small" })
    this.line = s("polyline", { fill: "none" })
    this.spark = s("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, this.line)
    this.felt = h("span", { class: "felt" })
    this.words = h("span", { class: "words" })
    this.time = h("span", {})
    this.alerts = h("span", { role: "cell", class: "badges" })
    this.health = h("span", { role: "cell", class: "badges" })
    const cell = (kind, ...parts) => h("span", { role: "cell", class: kind }, ...parts)
    this.root = h(
      "div",
      { role: "row", class: "row" },
      cell("c-pin", this.pinButton),
      cell("c-mass", this.mass, this.arrow, this.trend, this.meter),
      cell("c-name", this.link, this.roles),
      cell("c-spark", this.spark),
      cell("c-words", this.felt, this.words),
      cell("c-time", this.time),
      this.alerts,
      this.health,
    )
    this.showPin()
    this.draw()
    return this.root
  }

  get pinned() {
    return this.view.pinned.has(this.data.call)
  }

  showPin() {
    if (!this.root) return
    attribute(this.pinButton, "aria-pressed", this.pinned)
    text(this.pinButton, this.pinned ? "★" : "☆")
    attribute(this.pinButton, "aria-label", `Pin ${this.data.call}`)
  }

  show(data) {
    this.data = data
    this.shownAt = performance.now()
    if (this.root) this.draw()
  }

  draw() {
    const { data } = this
    text(this.mass, data.mass === null ? "–" : `${Math.round(data.mass * 100)} %`)
    attribute(this.fill, "width", Math.round((data.mass ?? 0) * 100))
    attribute(this.element, "data-level", data.mass >= 0.6 ? "high" : data.mass >= 0.35 ? "middle" : "low")
    text(this.arrow, data.live ? TRENDS[data.trend][0] : "")
    text(this.trend, data.live ? TRENDS[data.trend][1] : "")
    const channels = Object.entries(data.channels)
    const roles = channels.map(([channel, role]) => role ?? channel).join(", ")
    text(this.roles, [roles, data.protocol].filter(Boolean).join(" · "))
    attribute(this.line, "points", points(data.spark))
    if (this.emotion !== data.emotion) {
      this.emotion = data.emotion
      this.felt.replaceChildren(...(data.emotion ? [glyph(data.emotion), ` ${data.emotion}`] : []))
    }
    attribute(this.felt, "title", data.confidence === null ? null : percent(data.confidence))
    text(this.words, data.words ? ` ${data.role}: ${data.words}` : "")
    this.badges(this.alerts, firing(data).map((alert) => ["alert", alert.rule]))
    const health = []
    if (data.gaps) health.push(["trouble", `${data.gaps} ${data.gaps === 1 ? "gap" : "gaps"}`])
    if (data.degraded) health.push(["trouble", "degraded", data.degraded])
    if (data.lag_ms > 3000) health.push(["trouble", `${(data.lag_ms / 1000).toFixed(1)} s behind`])
    if (!data.live && !data.ended) health.push(["trouble", "no end seen"])
    this.badges(this.health, health)
    this.tick()
  }

  badges(cell, badges) {
    const key = JSON.stringify(badges)
    if (cell.dataset.key === key) return
    cell.dataset.key = key
    cell.replaceChildren(...badges.map(([kind, words, title]) => h("span", { class: `badge ${kind}`, title }, words)))
  }

  tick() {
    if (!this.root) return
    const { live, clock_ms, started_at } = this.data
    text(this.time, live ? clock(clock_ms + performance.now() - this.shownAt) : `${clock(clock_ms)} · ${day(started_at)}`)
  }
}

function points(spark) {
  const step = 100 / Math.max(1, spark.length - 1)
  return spark
    .map((value, n) => (value === null ? null : `${(n * step).toFixed(1)},${(22 - value * 20).toFixed(1)}`))
    .filter(Boolean)
    .join(" ")
}

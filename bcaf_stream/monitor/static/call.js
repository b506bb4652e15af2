// A call: lanes, transcript and details over one model, which is filled live or by replay, the same way.

import { attribute, h, text } from "./dom.js"
import { details } from "./details.js"
import { clock, day } from "./emotions.js"
import { Lanes } from "./lanes.js"
import { CallModel, Playback } from "./model.js"
import { Sound } from "./sound.js"
import { addressOf, firing } from "./state.js"
import { Transcript } from "./transcript.js"

const SPEEDS = [1, 4, 16]
const FORMATS = { csv: "CSV", json: "JSON", srt: "SRT", html: "HTML" }
const STEP_MS = 5_000
const FRAME_MS = 100

export class CallView {
  constructor(state, call, parameters) {
    this.state = state
    this.call = call
    this.model = new CallModel()
    this.playback = new Playback(this.model)
    this.selected = null
    this.wanted = parameters.has("t") ? Number(parameters.get("t")) : null
    this.known = false
    this.lanes = new Lanes((key) => this.choose(key), (ms) => this.seek(ms))
    this.transcript = new Transcript((key) => this.choose(key))
    this.facts = h("p", { class: "facts" })
    this.details = h("section", { class: "details", "aria-label": "Utterance" }, details(null))
    this.notice = h("p", { class: "note", role: "status" })
    this.sound = new Sound(call, (words) => text(this.notice, words))
    this.position = h("span", { class: "position" })
    this.scrubber = h("input", { type: "range", min: 0, max: 0, step: 100, "aria-label": "Time in the call", oninput: () => this.seek(Number(this.scrubber.value)) })
    this.playButton = h("button", { type: "button", onclick: () => this.toggle() })
    this.liveButton = h("button", { type: "button", onclick: () => this.goLive() })
    this.speeds = SPEEDS.map((speed) => h("button", { type: "button", "data-speed": speed, onclick: () => this.setSpeed(speed) }, `${speed}×`))
    this.copyButton = h("button", { type: "button", onclick: () => this.copy() }, "Copy link to moment")
    const zoom = (label, act, words) => h("button", { type: "button", "aria-label": label, onclick: act }, words)
    this.element = h(
      "div",
      { class: "page call" },
      h("div", { class: "bar" }, h("h1", {}, call), this.facts),
      h(
        "div",
        { class: "bar player", role: "group", "aria-label": "Replay" },
        this.playButton,
        ...this.speeds,
        this.liveButton,
        this.scrubber,
        this.position,
        h("span", { role: "group", "aria-label": "Scale" }, zoom("Zoom out", () => this.lanes.zoomBy(-1), "−"), zoom("Zoom in", () => this.lanes.zoomBy(1), "+"), zoom("Show the whole call", () => this.lanes.fit(), "Fit")),
      ),
      this.lanes.element,
      this.notice,
      h(
        "div",
        { class: "columns" },
        h(
          "section",
          { class: "spoken", "aria-label": "Transcript" },
          h(
            "div",
            { class: "bar" },
            h("h2", {}, "Transcript"),
            this.transcript.followButton,
            this.copyButton,
            this.sound.clickButton,
            h("span", { class: "exports" }, "Save as ", Object.entries(FORMATS).map(([format, name]) => h("a", { href: `/export?${new URLSearchParams({ call, format })}`, download: "" }, name))),
          ),
          this.transcript.list,
        ),
        this.details,
      ),
    )
    this.last = performance.now()
    this.timer = setInterval(() => this.frame(), FRAME_MS)
    this.missing = setTimeout(() => this.showMissing(), 1_500)
    this.transcript.setFollow(this.wanted === null)
    this.dirty = true
  }

  destroy() {
    clearInterval(this.timer)
    clearTimeout(this.missing)
    this.sound.stop()
    this.lanes.destroy()
  }

  stays(page, call, parameters) {
    if (page !== "call" || call !== this.call) return false
    if (parameters.has("t")) this.selectAt(Number(parameters.get("t")))
    return true
  }

  take(message) {
    if (message.reset || message.gone?.includes(this.call)) {
      this.playback.clear()
      this.select(null)
      this.known = false
      this.dirty = true
      if (message.gone?.includes(this.call)) text(this.notice, "This call was erased, or is kept no longer.")
    }
    if (message.events) {
      this.playback.add(message.events)
      if (!this.known) text(this.notice, "")
      this.known = true
      this.dirty = true
    }
    if (this.known && this.wanted !== null && !this.state.status.more) {
      this.selectAt(this.wanted)
      this.wanted = null
    }
    this.row = this.state.rows.get(this.call) ?? this.row
    if (message.rows) this.dirty = true
  }

  showMissing() {
    if (!this.known && !this.notice.textContent) text(this.notice, "Nothing is known of this call. If it begins, it appears here.")
  }

  frame() {
    const now = performance.now()
    const passed = now - this.last
    this.last = now
    if (this.playback.mode === "playing") {
      this.playback.tick(passed)
      this.dirty = true
    }
    if (this.dirty && !document.hidden) this.draw()
  }

  draw() {
    this.dirty = false
    const { playback, model } = this
    const live = playback.mode === "live"
    this.lanes.draw(model, playback.end, playback.at, this.selected)
    this.transcript.draw(model, this.selected)
    const one = model.utterances.get(this.selected)
    if (one?.event !== this.detailed) {
      this.detailed = one?.event
      this.details.replaceChildren(...details(one), this.sound.button)
    }
    this.sound.offer(one, Boolean(this.state.status.sound))
    attribute(this.scrubber, "max", playback.end)
    if (document.activeElement !== this.scrubber || live) this.scrubber.value = playback.at
    attribute(this.scrubber, "aria-valuetext", `${clock(playback.at)} of ${clock(playback.end)}`)
    text(this.position, `${clock(playback.at)} / ${clock(playback.end)}`)
    text(this.playButton, playback.mode === "playing" ? "Pause" : "Play")
    const over = Boolean(this.playback.events.at(-1)?.type === "call.end")
    text(this.liveButton, over ? "End" : "Live")
    attribute(this.liveButton, "aria-pressed", live)
    for (const button of this.speeds) attribute(button, "aria-pressed", !live && Number(button.dataset.speed) === playback.speed)
    this.drawFacts(over)
  }

  drawFacts(over) {
    const { model, row } = this
    const facts = []
    if (model.started) facts.push(`begun ${day(model.started.emitted_at)}`)
    facts.push(over ? `ended: ${this.playback.events.at(-1).reason ?? "complete"}` : this.known ? "live" : "")
    if (row) for (const alert of firing(row)) facts.push(`alert ${alert.rule}`)
    if (row?.degraded) facts.push(`degraded: ${row.degraded}`)
    text(this.facts, facts.filter(Boolean).join(" · "))
  }

  choose(key) {
    this.select(key)
    this.sound.clicked(this.model.utterances.get(key))
  }

  select(key, focus = false) {
    this.selected = key
    this.dirty = true
    if (key === null) return
    const one = this.model.utterances.get(key)
    if (!one) return
    this.transcript.setFollow(false)
    history.replaceState(null, "", this.moment(one.event.start_ms))
    this.draw()
    this.transcript.show(key, focus)
  }

  selectAt(ms) {
    if (!Number.isFinite(ms)) return
    if (this.playback.mode !== "live" && ms > this.playback.at) this.playback.seek(ms)
    const heard = this.model.inOrder()
    const there = heard.find((one) => one.event.start_ms <= ms && ms < one.event.end_ms) ?? heard.findLast((one) => one.event.start_ms <= ms) ?? heard[0]
    if (there) this.select(there.key)
  }

  move(steps) {
    const heard = this.model.inOrder()
    const now = heard.findIndex((one) => one.key === this.selected)
    const to = heard[Math.max(0, Math.min(heard.length - 1, now < 0 ? (steps > 0 ? 0 : heard.length - 1) : now + steps))]
    if (to) this.select(to.key, true)
  }

  goTo(place) {
    const one = this.model.inOrder().at(place)
    if (one) this.select(one.key, true)
  }

  toggle() {
    if (this.playback.mode === "playing") this.playback.pause()
    else this.playback.play()
    this.lanes.follow = true
    this.transcript.setFollow(this.playback.mode === "playing" || this.transcript.follow)
    this.dirty = true
  }

  setSpeed(speed) {
    this.playback.speed = speed
    if (this.playback.mode !== "playing") this.toggle()
    this.dirty = true
  }

  goLive() {
    this.playback.live()
    this.lanes.follow = true
    this.transcript.setFollow(true)
    this.dirty = true
  }

  seek(ms) {
    if (this.playback.mode === "live") this.playback.pause()
    this.playback.seek(ms)
    this.dirty = true
  }

  moment(ms) {
    return addressOf(`call/${encodeURIComponent(this.call)}`, { t: Math.round(ms) })
  }

  async copy() {
    const one = this.model.utterances.get(this.selected)
    const address = `${location.origin}${location.pathname}${this.moment(one ? one.event.start_ms : this.playback.at)}`
    try {
      await navigator.clipboard.writeText(address)
      text(this.notice, "The address of this moment is copied.")
    } catch {
      text(this.notice, `This moment: ${address}`)
    }
  }

  key(event) {
    const onButton = event.target.closest("button, a, summary")
    const onScrubber = event.target === this.scrubber
    switch (event.key) {
      case "j":
      case "ArrowDown":
        if (onScrubber) return false
        return this.move(1), true
      case "k":
      case "ArrowUp":
        if (onScrubber) return false
        return this.move(-1), true
      case "Home":
      case "End":
        if (onScrubber) return false
        return this.goTo(event.key === "Home" ? 0 : -1), true
      case "ArrowLeft":
      case "ArrowRight":
        if (onScrubber || event.target === this.lanes.scroller) return false
        return this.seek(this.playback.at + (event.key === "ArrowLeft" ? -STEP_MS : STEP_MS)), true
      case " ":
        if (onButton) return false
        return this.toggle(), true
      case "[":
      case "]": {
        const at = SPEEDS.indexOf(this.playback.speed) + (event.key === "[" ? -1 : 1)
        this.playback.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at))]
        this.dirty = true
        return true
      }
      case "l":
        return this.goLive(), true
      case "f":
        return this.transcript.setFollow(!this.transcript.follow), true
      case "c":
        return void this.copy(), true
      case "p":
        return this.sound.toggle(this.model.utterances.get(this.selected)), true
    }
    return false
  }
}

// The timeline of a call: one lane per channel or speaker, a block per utterance, marks for what was lost.

import { attribute, h, s, text } from "./dom.js"
import { clock, glyph, known, percent } from "./emotions.js"

const LANE = 40
const AXIS = 18
const TICK_PX = 90
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800].map((seconds) => seconds * 1000)
const ZOOMS = [2, 4, 8, 16, 32, 64] // pixels per second
const MOST_PX = 200_000

export class Lanes {
  constructor(choose, seek) {
    this.choose = choose
    this.blocks = new Map()
    this.lanes = new Map()
    this.axis = s("g", { class: "axis" })
    this.back = s("g", {})
    this.marks = s("g", {})
    this.front = s("g", {})
    this.cursor = s("line", { class: "cursor", y1: 0 })
    this.svg = s("svg", { class: "lanes", role: "img" }, this.axis, this.back, this.front, this.marks, this.cursor)
    this.names = h("div", { class: "lane-names", "aria-hidden": "true" })
    this.scroller = h("div", { class: "lane-scroll", tabindex: 0, role: "group", "aria-label": "Timeline" }, this.svg)
    this.element = h("div", { class: "timeline" }, this.names, this.scroller)
    this.zoom = null // null: the whole call
    this.follow = true
    this.scale = 0
    this.duration = 0
    this.svg.addEventListener("click", (event) => {
      const block = event.target.closest("[data-key]")
      if (block) choose(block.dataset.key)
      else seek((event.clientX - this.svg.getBoundingClientRect().left) / this.scale)
    })
    // In the next frame: drawing in the observer's own changes what it observes, which browsers report as an error.
    this.resized = new ResizeObserver(() => this.zoom === null && requestAnimationFrame(() => this.show()))
    this.resized.observe(this.scroller)
  }

  destroy() {
    this.resized.disconnect()
  }

  zoomBy(steps) {
    const now = this.scale * 1000
    if (steps > 0) this.zoom = ZOOMS.find((zoom) => zoom > now * 1.05) ?? this.zoom ?? ZOOMS.at(-1)
    else this.zoom = [...ZOOMS].reverse().find((zoom) => zoom < now * 0.95) ?? null
    this.show()
  }

  fit() {
    this.zoom = null
    this.show()
  }

  // Draws what changed; everything when the scale did.
  draw(model, duration, at, selected) {
    this.model = model
    this.duration = duration
    this.at = at
    this.selected = selected
    this.show()
  }

  show() {
    if (!this.model) return
    const room = Math.max(100, this.scroller.clientWidth - 2)
    const whole = Math.max(10_000, this.duration)
    let perSecond = this.zoom ?? Math.max((room * 1000) / whole, 0.05)
    perSecond = Math.min(perSecond, MOST_PX / (whole / 1000))
    const scale = perSecond / 1000
    const lanes = [...this.model.lanes.values()]
    const height = AXIS + Math.max(1, lanes.length) * LANE
    const width = Math.max(room, Math.ceil(whole * scale) + (this.zoom === null ? 0 : 60))
    const key = `${scale} ${lanes.map((lane) => lane.key)}`
    const anew = key !== this.key
    this.key = key
    this.scale = scale
    attribute(this.svg, "width", width)
    attribute(this.svg, "height", height)
    if (anew) this.drawLanes(lanes)
    if (anew || this.axisWidth !== width) this.drawAxis(width, height)
    if (anew) this.blocks.forEach((block) => (block.event = null))
    for (const key of this.blocks.keys()) {
      if (!this.model.utterances.has(key)) {
        this.blocks.get(key).element.remove()
        this.blocks.delete(key)
      }
    }
    for (const one of this.model.utterances.values()) this.drawBlock(one)
    this.drawMarks()
    const x = this.at * scale
    for (const end of ["x1", "x2"]) attribute(this.cursor, end, x)
    attribute(this.cursor, "y2", height)
    attribute(this.svg, "aria-label", `${lanes.length} lanes, ${this.blocks.size} utterances, ${clock(this.duration)}; the transcript below holds the same`)
    if (this.follow) {
      const shown = this.scroller.scrollLeft
      if (x > shown + room - 40 || x < shown) this.scroller.scrollLeft = x - room + 40 > shown ? x - room * 0.6 : Math.max(0, x - 40)
    }
  }

  drawLanes(lanes) {
    this.lanes = new Map(lanes.map((lane, n) => [lane.key, AXIS + n * LANE]))
    this.names.replaceChildren(...lanes.map((lane) => h("div", {}, h("strong", {}, lane.speaker ?? lane.channel), h("span", { class: "small" }, lane.role ?? ""))))
    this.back.replaceChildren(
      ...lanes.map((_, n) => s("rect", { class: n % 2 ? "lane odd" : "lane", x: 0, y: AXIS + n * LANE, width: "100%", height: LANE })),
    )
  }

  drawAxis(width, height) {
    this.axisWidth = width
    const step = STEPS.find((one) => one * this.scale >= TICK_PX) ?? 3_600_000
    const ticks = []
    for (let t = 0; t * this.scale < width; t += step) {
      ticks.push(s("line", { x1: t * this.scale, x2: t * this.scale, y1: 0, y2: height }))
      ticks.push(s("text", { x: t * this.scale + 4, y: 13 }, clock(t)))
    }
    this.axis.replaceChildren(...ticks)
  }

  drawBlock(one) {
    let block = this.blocks.get(one.key)
    if (!block) {
      block = { element: s("g", { "data-key": one.key }), rect: s("rect", { rx: 3 }), title: s("title") }
      block.element.append(block.title, block.rect)
      this.front.append(block.element)
      this.blocks.set(one.key, block)
    }
    attribute(block.element, "class", `block st-${one.stage}${one.key === this.selected ? " selected" : ""}`)
    if (block.event === one.event) return
    block.event = one.event
    const { start_ms: start, end_ms: end, emotion, confidence, text: words } = one.event
    const x = start * this.scale
    const width = Math.max(3, (end - start) * this.scale)
    const y = (this.lanes.get(one.lane) ?? AXIS) + 5
    for (const [name, value] of Object.entries({ x, y, width, height: LANE - 10 })) attribute(block.rect, name, value)
    attribute(block.rect, "class", emotion ? `e-${known(emotion)}` : "e-none")
    attribute(block.rect, "fill-opacity", emotion ? (0.3 + 0.7 * (confidence ?? 0)).toFixed(2) : null)
    block.glyph?.remove()
    block.glyph = null
    if (width >= 16 && emotion) {
      block.glyph = glyph(emotion, 14)
      attribute(block.glyph, "x", x + width / 2 - 7)
      attribute(block.glyph, "y", y + LANE / 2 - 12)
      block.element.append(block.glyph)
    }
    text(block.title, `${clock(start, true)} ${emotion ?? "not judged"} ${percent(confidence)} ${words ?? ""}`)
  }

  drawMarks() {
    const marks = this.model.marks
    const key = `${this.key} ${marks.length}`
    if (this.marksKey === key && this.lastMark === marks.at(-1)) return
    this.marksKey = key
    this.lastMark = marks.at(-1)
    const bottom = AXIS + Math.max(1, this.lanes.size) * LANE
    this.marks.replaceChildren(
      ...marks.map(({ event, lane, at }) => {
        const x = at * this.scale
        const y = this.lanes.get(lane) ?? AXIS
        if (event.type === "audio.gap") {
          const width = Math.max(3, (event.end_ms - event.start_ms) * this.scale)
          return s("rect", { class: "gap", x, y, width, height: lane ? LANE : bottom - AXIS }, s("title", {}, `sound is missing: ${event.reason ?? ""}`))
        }
        const kind = event.type === "alert" ? "flag" : "warn"
        return s("path", { class: kind, d: `M${x} ${AXIS}V3h10l-3 4 3 4H${x}` }, s("title", {}, event.rule ?? event.reason ?? ""))
      }),
    )
  }
}

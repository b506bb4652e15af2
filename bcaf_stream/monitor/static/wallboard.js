// The calls that need somebody, large, for a screen on the wall: nothing here is to be clicked.

import { h, order, text } from "./dom.js"
import { clock, glyph } from "./emotions.js"
import { firing } from "./state.js"

const SHOWN = 12
const SORT_MS = 5_000

export class Wallboard {
  constructor(state) {
    this.state = state
    this.cards = new Map()
    this.grid = h("ol", { class: "cards" })
    this.counts = h("p", { class: "counts" })
    const full = h("button", { type: "button", onclick: () => document.documentElement.requestFullscreen?.() }, "Full screen")
    this.element = h("div", { class: "page wall" }, h("div", { class: "bar" }, h("h1", {}, "Wallboard"), this.counts, full), this.grid)
    this.timer = setInterval(() => this.arrange(), SORT_MS)
    this.clockTimer = setInterval(() => this.cards.forEach((card) => card.tick()), 1_000)
    this.first = setTimeout(() => this.arrange(), 400)
  }

  destroy() {
    clearInterval(this.timer)
    clearInterval(this.clockTimer)
    clearTimeout(this.first)
  }

  update(changed) {
    for (const name of changed) {
      const row = this.state.rows.get(name)
      if (row && this.cards.has(name)) this.cards.get(name).show(row)
    }
  }

  arrange() {
    const live = [...this.state.rows.values()].filter((row) => row.live)
    live.sort((a, b) => firing(b).length - firing(a).length || (b.mass ?? -1) - (a.mass ?? -1) || a.call.localeCompare(b.call))
    const shown = live.slice(0, SHOWN)
    const alerts = live.reduce((sum, row) => sum + firing(row).length, 0)
    text(this.counts, `${live.length} live calls, ${alerts} alerts firing, ${live.filter((row) => row.mass >= 0.6).length} strongly negative`)
    const cards = new Map(shown.map((row) => [row.call, this.cards.get(row.call) ?? new Card()]))
    this.cards = cards
    for (const row of shown) cards.get(row.call).show(row)
    order(this.grid, [...cards.values()].map((card) => card.element))
  }
}

class Card {
  constructor() {
    this.mass = h("span", { class: "mass" })
    this.name = h("h2", {})
    this.felt = h("p", { class: "felt" })
    this.words = h("p", { class: "words" })
    this.alerts = h("p", { class: "badges" })
    this.time = h("span", { class: "time" })
    this.element = h("li", { class: "card" }, h("div", { class: "bar" }, this.mass, this.time), this.name, this.felt, this.words, this.alerts)
  }

  show(row) {
    this.row = row
    this.shownAt = performance.now()
    this.element.dataset.level = row.mass >= 0.6 ? "high" : row.mass >= 0.35 ? "middle" : "low"
    text(this.mass, row.mass === null ? "–" : `${Math.round(row.mass * 100)} % ${{ 1: "▲", 0: "", "-1": "▼" }[row.trend]}`)
    text(this.name, row.call)
    if (this.emotion !== row.emotion) {
      this.emotion = row.emotion
      this.felt.replaceChildren(...(row.emotion ? [glyph(row.emotion, 22), ` ${row.emotion}`] : []))
    }
    text(this.words, row.words ? `${row.role}: ${row.words}` : "")
    this.alerts.replaceChildren(...firing(row).map((alert) => h("span", { class: "badge alert" }, alert.rule)))
    this.tick()
  }

  tick() {
    text(this.time, clock(this.row.clock_ms + performance.now() - this.shownAt))
  }
}

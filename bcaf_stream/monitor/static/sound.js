// Evidence sound, where the operator has it recorded: one utterance at a time, and only when somebody asks for it,
// because each play is a line of the audit.

import { attribute, h, store, stored, text } from "./dom.js"

export class Sound {
  constructor(call, tell) {
    this.call = call
    this.tell = tell // what stands against it
    this.key = null // of the utterance that is heard
    this.audio = new Audio()
    this.audio.addEventListener("ended", () => this.stop())
    this.audio.addEventListener("error", () => this.key !== null && this.failed())
    this.byClick = stored("sound", true)
    this.button = h("button", { type: "button", hidden: true, onclick: () => this.toggle(this.one) })
    this.clickButton = h("button", { type: "button", hidden: true, onclick: () => this.setByClick(!this.byClick) }, "Click plays")
    this.show()
  }

  // The utterance that is looked at, and whether there is any sound here.
  offer(one, hasSound) {
    this.one = one
    this.clickButton.hidden = !hasSound
    this.button.hidden = !hasSound || !one
    this.show()
  }

  setByClick(byClick) {
    this.byClick = byClick
    store("sound", byClick)
    this.show()
  }

  clicked(one) {
    if (!this.clickButton.hidden && this.byClick && one) this.play(one)
  }

  toggle(one) {
    if (this.key !== null && this.key === one?.key) this.stop()
    else if (one && !this.button.hidden) this.play(one)
  }

  play(one) {
    this.key = one.key
    const { channel, utterance } = one.event
    this.address = `/sound?${new URLSearchParams({ call: this.call, channel, utterance })}`
    this.tell("")
    this.audio.src = this.address
    this.audio.play().catch(() => {}) // the element's own error says it
    this.show()
  }

  stop() {
    this.key = null
    this.audio.pause()
    this.audio.removeAttribute("src")
    this.show()
  }

  async failed() {
    const address = this.address
    this.stop()
    try {
      const answer = await fetch(address)
      this.tell(`Not played: ${answer.ok ? "this browser cannot play it" : (await answer.text()).trim()}.`)
    } catch {
      this.tell("Not played: the monitor is not there.")
    }
  }

  show() {
    attribute(this.clickButton, "aria-pressed", this.byClick)
    text(this.button, this.key !== null && this.key === this.one?.key ? "Stop sound" : "Play sound")
  }
}

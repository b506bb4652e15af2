// The page's one stream. It comes back by itself, from where it was, whatever happened meanwhile: the server was
// started again, the network was away, the computer slept.

const SILENT_MS = 15_000 // the server says something every 5 s
const AGAIN_MS = 2_000
// A browser opens six connections to one address over HTTP/1.1: tabs that nobody looks at must not hold them all.
const HIDDEN_MS = 5_000

export class Live {
  constructor(take, tell) {
    this.take = take
    this.tell = tell // connected | silent | lost | refused | signed out
    this.call = ""
    this.id = null
    this.hear()
    setInterval(() => this.look(), 3_000)
    document.addEventListener("visibilitychange", () => (document.hidden ? this.restSoon() : this.wake()))
    window.addEventListener("online", () => this.resting || this.open())
    window.addEventListener("offline", () => this.tell("offline"))
    window.addEventListener("pagehide", () => this.source?.close())
    window.addEventListener("pageshow", (event) => event.persisted && this.open())
  }

  watch(call) {
    this.call = call
    this.id = null
    this.open()
  }

  hear() {
    this.heard = performance.now()
    this.heardAt = Date.now()
  }

  // A computer that sleeps may stop one of the clocks, and its owner may set the other.
  get silentMs() {
    return Math.max(performance.now() - this.heard, Date.now() - this.heardAt)
  }

  // A hidden page gives its connection back; what came meanwhile is asked for when it is looked at again.
  restSoon() {
    clearTimeout(this.restTimer)
    this.restTimer = setTimeout(() => {
      this.resting = document.hidden
      if (!this.resting) return
      clearTimeout(this.timer)
      this.source?.close()
    }, HIDDEN_MS)
  }

  wake() {
    clearTimeout(this.restTimer)
    if (this.resting) this.open()
    else this.look()
  }

  open() {
    this.resting = false
    if (document.hidden) this.restSoon()
    clearTimeout(this.timer)
    this.source?.close()
    const asked = new URLSearchParams()
    if (this.call) asked.set("call", this.call)
    if (this.id !== null) asked.set("after", this.id)
    const source = new EventSource(`/stream?${asked}`)
    this.source = source
    this.hear()
    source.onmessage = (message) => {
      if (source !== this.source) return
      this.hear()
      if (message.lastEventId) this.id = message.lastEventId
      this.tell("connected")
      this.take(JSON.parse(message.data))
    }
    source.onerror = () => {
      if (source !== this.source) return
      this.tell("lost")
      if (source.readyState === EventSource.CLOSED) this.timer = setTimeout(() => this.ask(), AGAIN_MS)
    }
  }

  // The stream was refused: for good, or because the server is not there.
  async ask() {
    try {
      const answer = await fetch("/stream?probe", { cache: "no-store" })
      if (answer.status !== 204) {
        this.tell(answer.status === 401 ? "signed out" : "refused", await answer.text())
        this.timer = setTimeout(() => this.ask(), 5 * AGAIN_MS)
        return
      }
    } catch {
      this.timer = setTimeout(() => this.ask(), AGAIN_MS)
      return
    }
    this.open()
  }

  look() {
    const { silentMs } = this
    if (this.resting) return
    if (silentMs <= SILENT_MS) return
    this.tell("silent", silentMs)
    this.open()
  }
}

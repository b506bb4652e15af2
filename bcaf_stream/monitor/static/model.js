// A call as its events tell it: the same for live events, replayed ones, and those of a finished call.

export class CallModel {
  constructor() {
    this.clear()
  }

  clear() {
    this.lanes = new Map() // key -> {key, channel, speaker, role}
    this.utterances = new Map() // key -> what holds now of an utterance
    this.marks = [] // gaps, degradations, alerts
    this.started = null
    this.ended = null
    this.duration = 0
    this.changed = new Set() // keys of utterances since somebody looked
  }

  apply(event) {
    this.duration = Math.max(this.duration, event.end_ms ?? 0)
    const lane = event.channel ? this.lane(event) : null
    switch (event.type) {
      case "call.start":
        this.started = event
        break
      case "call.end":
        this.ended = event
        break
      case "speaker.relabelled":
        this.relabel(event)
        break
      case "emotion.interim":
      case "emotion.final":
      case "emotion.revised":
        this.spoken(event, lane)
        break
      case "degraded":
        if (event.utterance !== undefined) this.spoken(event, lane)
        else this.marks.push({ event, lane: lane?.key ?? null, at: event.start_ms ?? this.duration })
        break
      case "audio.gap":
      case "alert":
        this.marks.push({ event, lane: lane?.key ?? null, at: event.start_ms ?? this.duration })
    }
  }

  lane(event) {
    const key = event.speaker ? `${event.channel} ${event.speaker}` : event.channel
    if (!this.lanes.has(key)) this.lanes.set(key, { key, channel: event.channel, speaker: event.speaker })
    const lane = this.lanes.get(key)
    lane.role = event.role ?? lane.role
    return lane
  }

  spoken(event, lane) {
    const key = `${event.channel} ${event.utterance}`
    const known = this.utterances.get(key)
    const stage = event.type === "degraded" ? "unjudged" : event.type.slice("emotion.".length)
    if (known && stage === "interim" && known.stage !== "interim") return
    const history = known ? known.history : []
    // What an interim result said is no version of the utterance; what a final one said is.
    if (known && known.stage !== "interim") history.push(known.event)
    this.utterances.set(key, { key, lane: lane.key, stage, event, history })
    this.changed.add(key)
  }

  relabel(event) {
    const names = event.speakers ?? event.relabelled ?? {}
    for (const [key, one] of this.utterances) {
      const to = names[one.event.speaker]
      if (!to || one.event.channel !== event.channel || one.event.utterance < (event.utterance ?? 0)) continue
      const changed = { ...one.event, speaker: to }
      this.utterances.set(key, { ...one, event: changed, lane: this.lane(changed).key })
      this.changed.add(key)
    }
  }

  inOrder() {
    return [...this.utterances.values()].sort(
      (a, b) => a.event.start_ms - b.event.start_ms || a.lane.localeCompare(b.lane),
    )
  }
}

// The events of a call and a place among them: `live` stands at the end and goes on with it.
export class Playback {
  constructor(model) {
    this.model = model
    this.events = []
    this.ids = new Set()
    this.times = [] // of the call's clock at which each event is shown
    this.applied = 0
    this.at = 0
    this.speed = 1
    this.mode = "live" // live | playing | paused
  }

  get end() {
    return this.times.length ? this.times[this.times.length - 1] : 0
  }

  clear() {
    this.events = []
    this.ids.clear()
    this.times = []
    this.applied = 0
    this.model.clear()
  }

  add(events) {
    let late = false
    for (const event of events) {
      if (this.ids.has(event.id)) continue // sent again after the connection was lost
      this.ids.add(event.id)
      const last = this.events[this.events.length - 1]
      late ||= last !== undefined && last.offset > event.offset
      this.events.push(event)
      if (!late) this.times.push(Math.max(this.end, event.end_ms ?? 0))
    }
    if (late) this.sortAnew()
    if (this.mode === "live") this.toEnd()
  }

  sortAnew() {
    this.events.sort((a, b) => a.offset - b.offset)
    let time = 0
    this.times = this.events.map((event) => (time = Math.max(time, event.end_ms ?? 0)))
    this.model.clear()
    this.applied = 0
    this.seek(this.mode === "live" ? this.end : this.at)
  }

  toEnd() {
    while (this.applied < this.events.length) this.model.apply(this.events[this.applied++])
    this.at = this.end
  }

  seek(ms) {
    this.at = Math.max(0, Math.min(ms, this.end))
    if (this.applied && this.times[this.applied - 1] > this.at) {
      this.model.clear()
      this.applied = 0
    }
    while (this.applied < this.events.length && this.times[this.applied] <= this.at) {
      this.model.apply(this.events[this.applied++])
    }
  }

  live() {
    this.mode = "live"
    this.toEnd()
  }

  pause() {
    this.mode = "paused"
  }

  play(speed = this.speed) {
    this.speed = speed
    if (this.at >= this.end) this.seek(0)
    this.mode = "playing"
  }

  tick(ms) {
    if (this.mode !== "playing") return
    this.seek(this.at + ms * this.speed)
    if (this.at >= this.end && this.model.ended) this.mode = "paused"
  }
}

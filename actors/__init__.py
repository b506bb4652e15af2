"""The deployment on Ray. One live call, file by file, in the order in which its sound is heard:

    actors/launch.py                            makes the actors
    actors/ingest_actor.py                      one process: the servers for calls, and the calls
    bcaf_stream/ingest/transports/tcp.py        a server with sockets, of a
    bcaf_stream/ingest/protocols/raw_pcm.py     protocol without any
    bcaf_stream/ingest/sink.py                  what a server says to the calls
    actors/call_registry.py                     who may begin one
    actors/call_connection.py                   what its sender says, and what waits
    actors/call_session.py                      the clocks of one call; drives the next
    bcaf_stream/conversation.py                 THE MAIN PATH: what is done with it, without any I/O
    bcaf_stream/audio/turns.py                  sound -> segments, in the order of the dialogue
    actors/recognition.py                       a segment -> its words
    bcaf_stream/transcripts/stage.py            a segment and words -> an utterance
    bcaf_stream/context.py                      an utterance -> a prediction, one after the other
    actors/replica_pool.py                      asks one of the EmotionActors
    actors/emotion_actor.py                     another process: batches of utterances
    bcaf_stream/emotion_model.py                the encoders, then
    bcaf_stream/dialogue.py                     one step on the dialogue's state, by
    bcaf_stream/model/bcaf.py                   the network
    bcaf_stream/events/writer.py                a prediction -> an event, back in the conversation
    actors/outbox.py                            the events on their way
    actors/hub_actor.py                         a third process
    bcaf_stream/events/hub.py                   takes them, has the
    bcaf_stream/events/journal/journal.py       journal keep them, then
    bcaf_stream/events/publisher.py             publishes them

`analyze` on a file takes the part from conversation.py to writer.py, driven by `bcaf_stream/analyzer.py`. What
keeps a deployment up is apart from this: actors/supervisor.py, actors/driver.py, actors/policy.py.
"""

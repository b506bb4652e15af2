"""A door and its call until either is over: what feeds the call runs beside the wait for its end."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from bcaf_stream import loops
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.live import Ended, LiveCall

GOING_DOWN = "the server is going down"


async def until_over(call: LiveCall, feeding: Coroutine[Any, Any, bool]) -> Ended | None:
    """Run `feeding` until the call is over, whoever ends it; what breaks `feeding` ends the call and is raised.

    Args:
        feeding: gives the call its media; True when it has ended it, False when the connection was lost, and
            then None is returned.
    """
    async with (
        loops.beside("media of a call", feeding) as feed,
        loops.beside("end of a call", call.ended()) as ending,
    ):
        try:
            await asyncio.wait({feed, ending}, return_when=asyncio.FIRST_COMPLETED)
            if feed.done() and not feed.result():
                return None
            return await ending
        except asyncio.CancelledError:
            end(call, GOING_DOWN)
            raise
        except LinkError as error:
            end(call, str(error))
            raise
        except Exception as error:
            end(call, f"failed: {type(error).__name__}")
            raise


def end(call: LiveCall, reason: str) -> None:
    """End a call, which may be over already."""
    with suppress(LinkError):
        call.end(reason)

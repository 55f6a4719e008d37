"""The tokens on which a conversion compares the packed weights with the float32 ones."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.config import Config

if TYPE_CHECKING:
    from gpt2fast.tokenizer import Tokenizer

N_TOKENS = 256
ENGLISH, RANDOM_IDS = "an English text", "pseudo-random ids"

# Written for this purpose: plain prose, speech, numbers and a list. Another text would change the
# receipts of all models.
_TEXT = """\
The ferry to the island leaves at ten past seven, and on most mornings nobody is on it except the \
postman and his dog. In winter the crossing takes almost an hour. The captain, a woman named Ruth \
Hale, has made it more than nine thousand times since 1986, and she says that she has never seen \
the same water twice.

"People think that the sea is one thing," she told me, leaning on the rail with a cup of tea. \
"It isn't. Look over there, where the colour changes. That is the river coming in, cold and full \
of sand. You can smell the hills in it after a week of rain."

I asked her whether she ever got tired of the journey. She laughed.

"My daughter works in a bank in London. She takes a train, then another train, and she sits in a \
room without a window until six o'clock. I wouldn't last until lunch."

What you need for a day on the island: good shoes, a warm coat, something to eat, and about 12 \
pounds for the ticket. There is one shop, which closes at noon, and a small museum with two rooms. \
The first shows how the houses were built from stone and turf. The second is about the storm of \
1953, when the tide rose three metres in a single night and carried away the school, the church \
and every boat in the harbour. However, no one was killed, because an old fisherman had noticed \
that the birds were flying inland and had rung the bell. His chair still stands beside the door.
"""


def passage(config: Config, tokenizer: Tokenizer | None) -> tuple[NDArray[np.int32], str]:
    """Return at most 256 ids, as many as the context holds, and what they are.

    They are those of an English text, or pseudo-random ones for a model without tokenizer. The
    same for the same tokenizer and configuration, always.
    """
    n = min(N_TOKENS, config.n_ctx)
    if tokenizer is not None:
        return np.array(tokenizer.encode(_TEXT)[:n], np.int32), ENGLISH
    # NumPy's generators may change from version to version, a hash does not.
    draws = (hashlib.sha256(b"%d" % i).digest()[:8] for i in range(n))
    ids = [int.from_bytes(draw, "little") % config.n_vocab for draw in draws]
    return np.array(ids, np.int32), RANDOM_IDS

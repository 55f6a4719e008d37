# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: freethreading_compatible=True
"""Byte-level BPE on UTF-8 bytes: GPT-2's pattern split by hand, and the merge loop.

Everything here works on C arrays that are checked when a `BPE` is made and never change after
that, so several threads may use one at once. A piece of text takes the first way that leads
somewhere: a look-up among the tokens (nine words of ten end there), a look-up among the pieces
met earlier in the same text, and the merge loop.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_Check, PyLong_FromUnsignedLong
from cpython.number cimport PyNumber_Index
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

include "_splitter.pxi"
include "_merge.pxi"
include "_encode.pxi"

fill_kinds()
fill_head_masks()


cdef list ids_of(const Work *work):
    cdef list ids = PyList_New(work.count)
    cdef Py_ssize_t at
    cdef object token
    for at in range(work.count):
        token = PyLong_FromUnsignedLong(work.ids[at])
        Py_INCREF(token)  # the list steals one
        PyList_SET_ITEM(ids, at, token)
    return ids


cdef inline uint32_t checked_id(object token, uint32_t n_vocab) except? 0xFFFFFFFF:
    """Return the id as a number; raise TypeError if it is none, ValueError if out of range."""
    cdef int overflow = 0
    cdef object index = token if PyLong_Check(token) else PyNumber_Index(token)
    cdef int64_t value = PyLong_AsLongLongAndOverflow(index, &overflow)
    if overflow or not 0 <= value < n_vocab:
        raise ValueError(f"token id {token} is out of range: allowed are 0 to {n_vocab - 1}")
    return <uint32_t>value


cdef int bits_for(Py_ssize_t count) noexcept:
    """Return the log2 of a table's size that `count` entries fill at most half."""
    cdef int bits = 1
    while <Py_ssize_t>1 << bits < 2 * count:
        bits += 1
    return bits


cdef class BPE:
    """A byte-level vocabulary with its merges, ready to encode and decode.

    `blob` holds the bytes of all tokens in order of id and `offsets` (uint32, n_vocab + 1) where
    each begins; `flags` (uint8 per token) is 1 for tokens of the byte-level vocabulary, 0 for
    those added as text, plus 2 for those that merging their bytes gives; `merges` (uint32) is
    left id, right id, merged id per merge, in order of rank. With `known_direct` the 2s are taken
    as given, else found here. Numbers are in the machine's byte order. Anything that does not fit
    together raises ValueError; afterwards no index can leave an array.
    """

    cdef Vocabulary v
    cdef bytes blob, offsets, flags

    def __cinit__(
        self,
        bytes blob not None,
        bytes offsets not None,
        bytes flags not None,
        bytes merges not None,
        *,
        bint known_direct=False,
    ):
        self.take(blob, offsets, flags)
        self.index_bytes()
        self.index_merges(merges)
        if not known_direct:
            self.find_direct()
        self.index_tokens()

    def __dealloc__(self):
        free(self.v.pairs)
        free(self.v.tokens)

    cdef take(self, bytes blob, bytes offsets, bytes flags):
        """Check the sizes of the sections and that the offsets stay inside the blob."""
        cdef Py_ssize_t n_vocab = PyBytes_GET_SIZE(flags), token
        cdef const uint32_t *at = <const uint32_t *>PyBytes_AS_STRING(offsets)
        if not 256 <= n_vocab < NOT_DIRECT:
            raise ValueError(f"{n_vocab} tokens: byte-level BPE has at least 256")
        if PyBytes_GET_SIZE(offsets) != 4 * (n_vocab + 1):
            raise ValueError(f"{PyBytes_GET_SIZE(offsets)} bytes of offsets for {n_vocab} tokens")
        if at[0] != 0 or at[n_vocab] != <size_t>PyBytes_GET_SIZE(blob):
            raise ValueError("the token offsets do not span the token bytes")
        self.blob, self.offsets = blob, offsets
        self.flags = PyBytes_FromStringAndSize(PyBytes_AS_STRING(flags), n_vocab)  # our own
        self.v.n_vocab = <uint32_t>n_vocab
        self.v.bytes = <const uint8_t *>PyBytes_AS_STRING(blob)
        self.v.offsets = at
        self.v.flags = <uint8_t *>PyBytes_AS_STRING(self.flags)
        for token in range(n_vocab):
            if at[token + 1] <= at[token]:
                raise ValueError(f"token {token} is empty or its offset goes backwards")
            if self.v.flags[token] not in (0, REGULAR, REGULAR | DIRECT):
                raise ValueError(f"token {token} has unknown flags {self.v.flags[token]}")

    cdef index_bytes(self):
        """Find the token of each single byte."""
        cdef uint32_t token
        cdef int byte
        memset(self.v.byte_ids, 0xFF, sizeof(self.v.byte_ids))
        for token in range(self.v.n_vocab):
            if is_regular(&self.v, token) and length_of(&self.v, token) == 1:
                self.v.byte_ids[self.v.bytes[self.v.offsets[token]]] = token
        for byte in range(256):
            if self.v.byte_ids[byte] == NONE:
                raise ValueError(f"the vocabulary has no token for byte 0x{byte:02X}")

    cdef index_merges(self, bytes packed):
        """Fill the table of pairs, checking that each merge joins the bytes of its parts."""
        cdef const uint32_t *merge = <const uint32_t *>PyBytes_AS_STRING(packed)
        cdef Py_ssize_t count = PyBytes_GET_SIZE(packed) // 12, rank
        cdef Vocabulary *v = &self.v
        cdef Pair *slot
        if PyBytes_GET_SIZE(packed) % 12 or count >= NOT_DIRECT:
            raise ValueError(f"{PyBytes_GET_SIZE(packed)} bytes of merges")
        v.pair_bits = bits_for(count)
        v.n_merges = <uint32_t>count
        v.pairs = <Pair *>malloc(sizeof(Pair) << v.pair_bits)
        if v.pairs == NULL:
            raise MemoryError("the table of merges")
        memset(v.pairs, 0xFF, sizeof(Pair) << v.pair_bits)
        for rank in range(count):
            if not joins(v, merge[0], merge[1], merge[2]):
                raise ValueError(f"merge {rank} does not join two tokens into a third")
            slot = <Pair *>find_pair(v, merge[0], merge[1])
            if slot.rank != NONE:
                raise ValueError(f"merge {rank} repeats merge {slot.rank}")
            if displaced(slot - v.pairs, pair_home(v, merge[0], merge[1]), v.pair_bits):
                raise ValueError(f"merge {rank}: too many merges share one hash")
            slot.left, slot.right, slot.rank, slot.result = merge[0], merge[1], rank, merge[2]
            merge += 3

    cdef find_direct(self):
        """Mark the tokens that merging their bytes gives; the others are never looked up whole."""
        cdef Vocabulary *v = &self.v
        cdef Work work
        cdef uint32_t token
        cdef bint ok = start_work(&work, 0) == 0
        with nogil:
            for token in range(v.n_vocab):
                if ok and is_regular(v, token):
                    work.count = 0
                    work.memos[0].length = 0
                    ok = append_merged(v, token, &work) == 0
                    if ok and work.count == 1 and work.ids[0] == token:
                        v.flags[token] |= DIRECT
        end_work(&work)
        if not ok:
            raise MemoryError("merging the vocabulary")

    cdef index_tokens(self):
        """Fill the table of tokens, checking that no two regular ones have the same bytes."""
        cdef Vocabulary *v = &self.v
        cdef uint32_t token
        cdef size_t length, at
        cdef uint64_t head, hashed
        cdef const uint8_t *p
        v.token_bits = bits_for(v.n_vocab)
        v.tokens = <Token *>malloc(sizeof(Token) << v.token_bits)
        if v.tokens == NULL:
            raise MemoryError("the table of tokens")
        memset(v.tokens, 0xFF, sizeof(Token) << v.token_bits)
        for token in range(v.n_vocab):
            if not is_regular(v, token):
                continue
            p, length = v.bytes + v.offsets[token], length_of(v, token)
            if length >= NOT_DIRECT:
                raise ValueError(f"token {token} has {length} bytes")
            head = head_of(p, length, length)
            hashed = hash_piece(head, p, length)
            at = token_slot(v, head, hashed, p, length)
            if v.tokens[at].id != NONE:
                raise ValueError(f"tokens {v.tokens[at].id} and {token} have the same bytes")
            if displaced(at, hashed >> (64 - v.token_bits), v.token_bits):
                raise ValueError(f"token {token}: too many tokens share one hash")
            v.tokens[at].head, v.tokens[at].id = head, token
            v.tokens[at].length = <uint32_t>length
            if v.flags[token] & DIRECT:
                v.longest_direct = max(v.longest_direct, length)
        for at in range(<size_t>1 << v.token_bits):
            if v.tokens[at].id != NONE and not v.flags[v.tokens[at].id] & DIRECT:
                v.tokens[at].length |= NOT_DIRECT

    @property
    def n_vocab(self) -> int:
        return self.v.n_vocab

    def sections(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Return blob, offsets, flags and merges as the constructor takes them (known_direct)."""
        cdef bytes packed = PyBytes_FromStringAndSize(NULL, 12 * <Py_ssize_t>self.v.n_merges)
        cdef uint32_t *merges = <uint32_t *>PyBytes_AS_STRING(packed)
        cdef const Pair *pair
        cdef size_t at
        for at in range(<size_t>1 << self.v.pair_bits):
            pair = &self.v.pairs[at]
            if pair.rank != NONE:
                merges[3 * <size_t>pair.rank] = pair.left
                merges[3 * <size_t>pair.rank + 1] = pair.right
                merges[3 * <size_t>pair.rank + 2] = pair.result
        return self.blob, self.offsets, self.flags, packed

    def encode(self, str text not None) -> list[int]:
        """Split by GPT-2's pattern and return the ids; half a surrogate pair is an error."""
        cdef bytes data = text.encode("utf-8")
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        cdef Work work
        cdef int status
        try:
            status = start_work(&work, n)
            if status == 0 and n < RELEASE_GIL_FROM:
                status = encode_text(&self.v, p, n, &work)
            elif status == 0:
                with nogil:
                    status = encode_text(&self.v, p, n, &work)
            if status < 0:
                raise MemoryError(f"encoding {n} bytes")
            return ids_of(&work)
        finally:
            end_work(&work)

    def encode_pieces(self, list pieces not None) -> list[int]:
        """Return the ids of pieces (bytes) that are split already."""
        cdef Work work
        cdef bytes piece
        cdef Py_ssize_t n = 0
        for piece in pieces:
            n += len(piece)
        try:
            if start_work(&work, n) < 0:
                raise MemoryError(f"encoding {n} bytes")
            for piece in pieces:
                n = PyBytes_GET_SIZE(piece)
                if n and encode_piece(
                    &self.v, <const uint8_t *>PyBytes_AS_STRING(piece), n, n, &work
                ) < 0:
                    raise MemoryError(f"encoding {n} bytes")
            return ids_of(&work)
        finally:
            end_work(&work)

    def decode(self, ids) -> bytes:
        """Return the joined bytes of the ids (any iterable of integers)."""
        cdef Work work
        cdef size_t total = 0
        cdef uint32_t token
        cdef bytes joined
        try:
            if start_work(&work, 0) < 0:
                raise MemoryError("decoding")
            for item in ids:
                token = checked_id(item, self.v.n_vocab)
                if work.count == work.room and grow(&work, 1) < 0:
                    raise MemoryError(f"decoding {work.count} ids")
                work.ids[work.count] = token
                work.count += 1
                total += length_of(&self.v, token)
            joined = PyBytes_FromStringAndSize(NULL, total)
            join_tokens(&self.v, &work, <uint8_t *>PyBytes_AS_STRING(joined), total)
            return joined
        finally:
            end_work(&work)

    def token_bytes(self, token) -> bytes:
        """Return the bytes of one id."""
        cdef uint32_t index = checked_id(token, self.v.n_vocab)
        return self.blob[self.v.offsets[index]:self.v.offsets[index + 1]]


def split(str text not None) -> list[bytes]:
    """Return the pieces that GPT-2's pattern cuts the text into, as UTF-8."""
    cdef bytes data = text.encode("utf-8")
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t start = 0, end, n = PyBytes_GET_SIZE(data)
    cdef list found = []
    while start < n:
        end = piece_end(p, start, n)
        found.append(data[start:end])
        start = end
    return found

# Byte-pair merging over two hash tables that never change once they are filled:
#
#     pairs   (left id, right id) -> (rank, id of the merged token)
#     tokens  bytes of a token -> id; those that merging does not produce are marked, and missed
#
# Both are open-addressed with linear probing and at most half full. Of all pairs in a piece that of
# the lowest rank is merged first, the leftmost of equals. Short pieces are scanned for it: for a
# handful of bytes that beats any queue. Long ones take a heap, so that n bytes cost n log n.

cdef enum:
    REGULAR = 1           # flags: a token of the byte-level vocabulary, not one added as text
    DIRECT = 2            # merging its bytes gives this token
    LONGEST_SCAN = 64     # bytes of a piece; longer ones go through the heap
    LONGEST_PROBE = 1024  # at half load a fair table stays below 100
    MEMO_BYTES = 30
    MEMO_TOKENS = 8

cdef extern from *:
    """
    #define NONE 0xFFFFFFFFu        // no token, no rank: all bytes of a free slot are FF
    #define NOT_DIRECT 0x80000000u  // a mark on a length
    """
    const uint32_t NONE
    const uint32_t NOT_DIRECT

ctypedef struct Pair:
    uint32_t left
    uint32_t right
    uint32_t rank  # NONE: the slot is free
    uint32_t result

ctypedef struct Token:
    uint64_t head  # the first eight bytes, zeros behind a shorter token
    uint32_t id    # NONE: the slot is free
    uint32_t length  # | NOT_DIRECT

ctypedef struct Memo:  # one cache line: a piece and what it became
    uint8_t length
    uint8_t count
    uint8_t piece[MEMO_BYTES]
    uint32_t ids[MEMO_TOKENS]

ctypedef struct Vocabulary:
    uint32_t n_vocab
    const uint8_t *bytes  # of all tokens, in order of id
    const uint32_t *offsets  # n_vocab + 1
    uint8_t *flags  # n_vocab
    uint32_t n_merges
    uint32_t byte_ids[256]
    Pair *pairs
    int pair_bits
    Token *tokens
    int token_bits
    size_t longest_direct

cdef uint64_t head_masks[8]  # all ones in the first n bytes, as `load` would see them


cdef void fill_head_masks() noexcept nogil:
    cdef uint8_t ones[8]
    cdef size_t n
    memset(ones, 0xFF, 8)
    for n in range(8):
        head_masks[n] = load(ones, n)


cdef inline bint is_regular(const Vocabulary *v, uint32_t token) noexcept nogil:
    return token < v.n_vocab and v.flags[token] & REGULAR


cdef inline uint32_t length_of(const Vocabulary *v, uint32_t token) noexcept nogil:
    return v.offsets[token + 1] - v.offsets[token]


cdef inline bint displaced(size_t at, size_t home, int bits) noexcept nogil:
    """Say whether a slot is farther from where its key belongs than chance allows."""
    return ((at - home) & ((<size_t>1 << bits) - 1)) > LONGEST_PROBE


cdef bint joins(const Vocabulary *v, uint32_t left, uint32_t right, uint32_t result) noexcept nogil:
    """Say whether all three are tokens and the bytes of two make those of the third."""
    cdef uint32_t first, second
    cdef const uint8_t *p
    if not (is_regular(v, left) and is_regular(v, right) and is_regular(v, result)):
        return False
    first, second = length_of(v, left), length_of(v, right)
    p = v.bytes + v.offsets[result]
    return (
        length_of(v, result) == <uint64_t>first + second
        and memcmp(p, v.bytes + v.offsets[left], first) == 0
        and memcmp(p + first, v.bytes + v.offsets[right], second) == 0
    )


cdef inline size_t pair_home(const Vocabulary *v, uint32_t left, uint32_t right) noexcept nogil:
    cdef uint64_t key = (<uint64_t>left << 32) | right
    return <size_t>((key * 0x9E3779B97F4A7C15ull) >> (64 - v.pair_bits))


cdef inline const Pair *find_pair(
    const Vocabulary *v, uint32_t left, uint32_t right
) noexcept nogil:
    """Return the slot of the pair, or a free one (rank NONE)."""
    cdef size_t mask = (<size_t>1 << v.pair_bits) - 1
    cdef size_t at = pair_home(v, left, right)
    while v.pairs[at].rank != NONE and (v.pairs[at].left != left or v.pairs[at].right != right):
        at = (at + 1) & mask
    return &v.pairs[at]


cdef inline uint64_t load(const uint8_t *p, size_t n) noexcept nogil:
    """Return n <= 8 bytes as a number that is the same function of them everywhere."""
    cdef uint64_t value = 0
    memcpy(&value, p, n)
    return value


cdef inline uint64_t head_of(const uint8_t *p, size_t n, size_t readable) noexcept nogil:
    """Return the first eight of n bytes, zeros behind fewer; `readable` >= n can be read."""
    cdef uint64_t value
    if n >= 8:
        return load(p, 8)
    if readable >= 8:  # the usual case, free of branches on n
        value = load(p, 8)
        return value & head_masks[n]
    return load(p, n)


cdef inline uint64_t hash_piece(uint64_t head, const uint8_t *p, size_t n) noexcept nogil:
    cdef uint64_t value = (head ^ n) * 0x9E3779B97F4A7C15ull
    cdef size_t at = 8
    value ^= value >> 32
    while at < n:  # blocks of eight, the last one ending at n
        if at + 8 > n:
            at = n - 8
        value = (value ^ load(p + at, 8)) * 0xC2B2AE3D27D4EB4Full
        value ^= value >> 29
        at += 8
    return value * 0x9FB21C651E98DF25ull


cdef inline size_t token_slot(
    const Vocabulary *v, uint64_t head, uint64_t hashed, const uint8_t *p, size_t n
) noexcept nogil:
    """Return the slot of the token that the n bytes are, or a free one (id NONE)."""
    cdef size_t mask = (<size_t>1 << v.token_bits) - 1
    cdef size_t at = <size_t>(hashed >> (64 - v.token_bits))
    cdef const Token *slot = &v.tokens[at]
    while slot.id != NONE and (
        slot.head != head
        or slot.length != n
        or (n > 8 and memcmp(v.bytes + v.offsets[slot.id] + 8, p + 8, n - 8) != 0)
    ):
        at = (at + 1) & mask
        slot = &v.tokens[at]
    return at


cdef Py_ssize_t merge_short(
    const Vocabulary *v, const uint8_t *p, Py_ssize_t n, uint32_t *out
) noexcept nogil:
    """Merge n <= LONGEST_SCAN bytes into `out`; return how many ids they became."""
    cdef uint32_t rank[LONGEST_SCAN + 1]
    cdef uint32_t result[LONGEST_SCAN + 1]
    cdef Py_ssize_t at, best
    cdef uint32_t lowest
    cdef const Pair *pair
    for at in range(n):
        out[at] = v.byte_ids[p[at]]
    for at in range(n - 1):
        pair = find_pair(v, out[at], out[at + 1])
        rank[at], result[at] = pair.rank, pair.result
    while n > 1:
        lowest, best = NONE, 0
        for at in range(n - 1):
            if rank[at] < lowest:
                lowest, best = rank[at], at
        if lowest == NONE:
            break
        out[best] = result[best]
        n -= 1
        for at in range(best + 1, n):
            out[at], rank[at], result[at] = out[at + 1], rank[at + 1], result[at + 1]
        if best + 1 < n:
            pair = find_pair(v, out[best], out[best + 1])
            rank[best], result[best] = pair.rank, pair.result
        if best > 0:
            pair = find_pair(v, out[best - 1], out[best])
            rank[best - 1], result[best - 1] = pair.rank, pair.result
    return n


cdef inline void sift_down(uint64_t *heap, size_t n, size_t at) noexcept nogil:
    cdef uint64_t moved = heap[at]
    cdef size_t child = 2 * at + 1
    while child < n:
        if child + 1 < n and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= moved:
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = moved


cdef inline void sift_up(uint64_t *heap, size_t at) noexcept nogil:
    cdef uint64_t moved = heap[at]
    while at > 0 and heap[(at - 1) // 2] > moved:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = moved


cdef Py_ssize_t merge_long(
    const Vocabulary *v, const uint8_t *p, Py_ssize_t n, uint32_t *out
) noexcept nogil:
    """Merge n < 2**32 bytes into `out`, which has room for n; return the count, -1 out of memory.

    `out[i]` is the token that starts at byte i, or NONE inside one; `starts[i]` is where the token
    that ends with byte i starts. The heap holds rank << 32 | start of candidates, some outdated:
    one counts only if the pair that now starts there still has that rank.
    """
    cdef uint32_t *starts = <uint32_t *>calloc(n, sizeof(uint32_t))
    cdef uint64_t *heap = <uint64_t *>calloc(n, sizeof(uint64_t))
    cdef uint64_t *larger
    cdef size_t used = 0, room = n, index
    cdef Py_ssize_t at, right, end, count
    cdef const Pair *pair
    cdef uint64_t top
    if starts == NULL or heap == NULL:
        free(starts)
        free(heap)
        return -1
    for at in range(n):
        out[at] = v.byte_ids[p[at]]
        starts[at] = <uint32_t>at
    for at in range(n - 1):
        pair = find_pair(v, out[at], out[at + 1])
        if pair.rank != NONE:
            heap[used] = (<uint64_t>pair.rank << 32) | <uint64_t>at
            used += 1
    for index in range(used // 2, 0, -1):
        sift_down(heap, used, index - 1)
    while used:
        top = heap[0]
        used -= 1
        heap[0] = heap[used]
        sift_down(heap, used, 0)
        at = <Py_ssize_t>(top & NONE)
        if out[at] == NONE:
            continue
        right = at + length_of(v, out[at])
        if right >= n:
            continue
        pair = find_pair(v, out[at], out[right])
        if pair.rank != top >> 32:
            continue
        if used + 2 > room:
            room += room // 2 + 2
            larger = <uint64_t *>realloc(heap, room * sizeof(uint64_t))
            if larger == NULL:
                free(starts)
                free(heap)
                return -1
            heap = larger
        end = right + length_of(v, out[right])
        out[right] = NONE
        out[at] = pair.result
        starts[end - 1] = <uint32_t>at
        if end < n:
            pair = find_pair(v, out[at], out[end])
            if pair.rank != NONE:
                heap[used] = (<uint64_t>pair.rank << 32) | <uint64_t>at
                sift_up(heap, used)
                used += 1
        if at > 0:
            right = at
            at = starts[at - 1]
            pair = find_pair(v, out[at], out[right])
            if pair.rank != NONE:
                heap[used] = (<uint64_t>pair.rank << 32) | <uint64_t>at
                sift_up(heap, used)
                used += 1
    free(starts)
    free(heap)
    at = count = 0
    while at < n:
        right = at + length_of(v, out[at])
        out[count] = out[at]
        count += 1
        at = right
    return count

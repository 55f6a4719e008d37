# One call's work: bytes of text to ids by the shortest way, and ids back to bytes.

cdef enum:
    RELEASE_GIL_FROM = 8192  # bytes of text
    MOST_MEMOS = 8192  # 64 bytes each

ctypedef struct Work:  # one call's: a growing array of ids and the pieces met so far
    uint32_t *ids
    Py_ssize_t count
    Py_ssize_t room
    Memo *memos
    size_t memo_mask


cdef int start_work(Work *work, Py_ssize_t n) noexcept nogil:
    """Prepare for n bytes of text; return -1 when out of memory."""
    cdef size_t memos = 1
    while memos < MOST_MEMOS and memos * 64 < <size_t>n:
        memos *= 2
    work.count = 0
    work.room = n // 3 + 64
    work.memo_mask = memos - 1
    work.memos = <Memo *>calloc(memos, sizeof(Memo))
    work.ids = <uint32_t *>malloc(work.room * sizeof(uint32_t))
    return -1 if work.memos == NULL or work.ids == NULL else 0


cdef void end_work(Work *work) noexcept nogil:
    free(work.memos)
    free(work.ids)


cdef int grow(Work *work, Py_ssize_t more) noexcept nogil:
    """Make room for `more` ids; return -1 when out of memory."""
    cdef Py_ssize_t room = work.room + work.room // 2 + more
    cdef uint32_t *larger = <uint32_t *>realloc(work.ids, room * sizeof(uint32_t))
    if larger == NULL:
        return -1
    work.ids = larger
    work.room = room
    return 0


cdef int merge_piece(
    const Vocabulary *v, const uint8_t *p, Py_ssize_t n, uint64_t hashed, Work *work
) noexcept nogil:
    """Append the ids of a piece that is no token, remembering them; return -1 out of memory."""
    cdef Memo *memo = NULL
    cdef uint32_t *out = work.ids + work.count
    cdef Py_ssize_t count
    if n <= MEMO_BYTES:
        memo = &work.memos[hashed & work.memo_mask]
        if memo.length == n and memcmp(memo.piece, p, n) == 0:
            memcpy(out, memo.ids, memo.count * sizeof(uint32_t))
            work.count += memo.count
            return 0
    if n <= LONGEST_SCAN:
        count = merge_short(v, p, n, out)
    else:
        count = merge_long(v, p, n, out)
        if count < 0:
            return -1
    work.count += count
    if memo != NULL and count <= MEMO_TOKENS:
        memo.length, memo.count = <uint8_t>n, <uint8_t>count
        memcpy(memo.piece, p, n)
        memcpy(memo.ids, out, count * sizeof(uint32_t))
    return 0


cdef inline int encode_piece(
    const Vocabulary *v, const uint8_t *p, Py_ssize_t n, size_t readable, Work *work
) noexcept nogil:
    """Append the ids of one piece of n > 0 bytes; return -1 when out of memory."""
    cdef uint64_t head = head_of(p, n, readable)
    cdef uint64_t hashed = 0
    cdef uint32_t token
    if work.count + n > work.room and grow(work, n) < 0:
        return -1
    if <size_t>n <= v.longest_direct or n <= MEMO_BYTES:
        hashed = hash_piece(head, p, n)
        token = v.tokens[token_slot(v, head, hashed, p, n)].id
        if token != NONE:
            work.ids[work.count] = token
            work.count += 1
            return 0
    return merge_piece(v, p, n, hashed, work)


cdef int encode_text(
    const Vocabulary *v, const uint8_t *p, Py_ssize_t n, Work *work
) noexcept nogil:
    """Split n bytes of valid UTF-8 by GPT-2's pattern and encode; return -1 out of memory."""
    cdef Py_ssize_t start = 0, end
    while start < n:
        end = piece_end(p, start, n)
        if encode_piece(v, p + start, end - start, n - start, work) < 0:
            return -1
        start = end
    return 0


cdef int append_merged(const Vocabulary *v, uint32_t token, Work *work) noexcept nogil:
    """Append the ids that merging the token's bytes gives; return -1 when out of memory."""
    cdef uint32_t length = length_of(v, token)
    if work.count + <Py_ssize_t>length > work.room and grow(work, length) < 0:
        return -1
    return merge_piece(v, v.bytes + v.offsets[token], length, 0, work)


cdef void join_tokens(
    const Vocabulary *v, const Work *work, uint8_t *out, size_t room
) noexcept nogil:
    """Write the bytes of the ids to `out`, which has just the `room` they need."""
    cdef size_t length, offset, total = v.offsets[v.n_vocab]
    cdef Py_ssize_t at
    for at in range(work.count):
        offset, length = v.offsets[work.ids[at]], length_of(v, work.ids[at])
        if length <= 16 and room >= 16 and offset + 16 <= total:
            memcpy(out, v.bytes + offset, 16)  # a constant length is a register's load and store
        else:
            memcpy(out, v.bytes + offset, length)
        out += length
        room -= length

# GPT-2's pattern, split by hand over valid UTF-8:
#
#     '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
#
# A piece is a contraction, a run of one class with at most one U+0020 before it, or white space.
# White space before anything else leaves its last character to the next piece.

cdef extern from "_unicode_table.h":
    ctypedef struct UnicodeRange:
        uint32_t first, last, kind
    const int kUnicodeRangeCount
    const UnicodeRange kUnicodeRanges[]

cdef enum Kind:
    OTHER = 0
    LETTER = 1
    NUMBER = 2
    SPACE = 3
    WIDE = 4  # the first byte of a character of several bytes

cdef uint8_t byte_kind[256]
cdef uint8_t point_kinds[0x44000]  # of 0x110000 code points, four a byte, two bits each


cdef inline uint8_t kind_of(uint32_t point) noexcept nogil:
    return (point_kinds[point >> 2] >> ((point & 3) * 2)) & 3


cdef void fill_kinds() noexcept nogil:
    cdef int index
    cdef uint32_t point, kind
    for index in range(kUnicodeRangeCount):
        kind = kUnicodeRanges[index].kind
        for point in range(kUnicodeRanges[index].first, kUnicodeRanges[index].last + 1):
            point_kinds[point >> 2] |= <uint8_t>(kind << ((point & 3) * 2))
    for point in range(256):
        byte_kind[point] = WIDE if point >= 0x80 else kind_of(point)


cdef inline int wide_kind(const uint8_t *p, Py_ssize_t *width) noexcept nogil:
    """Return the class of the character of two to four bytes at `p`, and its width."""
    cdef uint32_t point
    if p[0] < 0xE0:
        width[0] = 2
        point = ((p[0] & 0x1Fu) << 6) | (p[1] & 0x3Fu)
    elif p[0] < 0xF0:
        width[0] = 3
        point = ((p[0] & 0x0Fu) << 12) | ((p[1] & 0x3Fu) << 6) | (p[2] & 0x3Fu)
    else:
        width[0] = 4
        point = (
            ((p[0] & 0x07u) << 18) | ((p[1] & 0x3Fu) << 12) | ((p[2] & 0x3Fu) << 6) | (p[3] & 0x3Fu)
        )
    return kind_of(point)


cdef inline int kind_at(const uint8_t *p, Py_ssize_t *width) noexcept nogil:
    """Return the class of the character at `p` and its width in bytes."""
    cdef int kind = byte_kind[p[0]]
    width[0] = 1
    return kind if kind != WIDE else wide_kind(p, width)


cdef inline Py_ssize_t contraction(const uint8_t *p, Py_ssize_t left) noexcept nogil:
    """Return the length of 's 'd 'm 't 'll 've 're at `p`, or 0; `left` bytes can be read."""
    cdef uint8_t a, b
    if left < 2:
        return 0
    a = p[1]
    if a == c's' or a == c'd' or a == c'm' or a == c't':
        return 2
    if left < 3:
        return 0
    b = p[2]
    if (a == c'l' and b == c'l') or (b == c'e' and (a == c'v' or a == c'r')):
        return 3
    return 0


cdef Py_ssize_t spaces_end(const uint8_t *p, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Return where the piece of white space at `start` ends: `\\s+(?!\\S)|\\s+`."""
    cdef Py_ssize_t at = start, last = start, width = 0
    while at < n and kind_at(p + at, &width) == SPACE:
        last = at
        at += width
    return at if at == n or last == start else last


cdef inline Py_ssize_t piece_end(const uint8_t *p, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Return where the piece that starts at `start` < n ends."""
    cdef Py_ssize_t at = start, width = 0
    cdef int kind
    if p[at] == c"'":
        width = contraction(p + at, n - at)
        if width:
            return at + width
    elif p[at] == c" " and at + 1 < n:
        at += 1
    kind = kind_at(p + at, &width)
    if kind == SPACE:
        return spaces_end(p, start, n)
    while True:
        at += width
        while at < n and byte_kind[p[at]] == kind:
            at += 1
        if at >= n or byte_kind[p[at]] != WIDE or wide_kind(p + at, &width) != kind:
            return at

# Stop strings, looked for in the bytes of the text as they come. Included by _generate.pyx.
#
# Each string is matched by the automaton of Knuth, Morris and Pratt: its state is the length of the
# longest beginning of the string that ends the text so far. A string is therefore found however the
# tokens cut it, inside a character too, and the largest state is how much of the end of the text
# must not be shown yet, as it may become a stop string.

cdef struct Automaton:
    const uint8_t* pattern               # all strings one after the other
    int32_t* starts                      # [n_strings + 1], into pattern
    int32_t* fallback                    # [bytes of pattern]: state to go on from if a byte differs
    int32_t n_strings
    const uint8_t* token_bytes
    const uint32_t* offsets              # token t is token_bytes[offsets[t]:offsets[t + 1]]
    uint32_t n_table


cdef class StopStrings:
    """The stop strings of a call and the bytes of every token."""

    cdef bytes pattern, table, offsets
    cdef Automaton automaton

    def __cinit__(self, strings: list[bytes], table: bytes, offsets: bytes) -> None:
        """Take the strings, none empty, and the tokens' bytes with n + 1 offsets as uint32.

        Raises ValueError for an empty string, and for offsets that fall or lead out of the table.
        """
        cdef Automaton* it = &self.automaton
        cdef int32_t i, j, start, length, matched
        cdef uint32_t before = 0
        cdef tuple all_strings = tuple(strings)
        if not all(isinstance(string, bytes) and string for string in all_strings):
            raise ValueError("stop strings must be bytes, none empty")
        self.pattern, self.table, self.offsets = b"".join(all_strings), table, offsets
        if len(self.pattern) > INT32_MAX or len(self.offsets) % 4 or not self.offsets:
            raise ValueError("stop strings are too long, or there are no offsets")
        it.pattern, it.token_bytes = <const uint8_t*>self.pattern, <const uint8_t*>self.table
        it.offsets = <const uint32_t*><const char*>self.offsets
        it.n_table, it.n_strings = len(self.offsets) // 4 - 1, len(all_strings)
        for i in range(<int32_t>it.n_table + 1):
            if not before <= it.offsets[i] <= <size_t>len(self.table):
                raise ValueError(f"offset {i} is out of order, or leads out of the table")
            before = it.offsets[i]
        it.starts = <int32_t*>PyMem_Malloc((it.n_strings + 1) * sizeof(int32_t))
        it.fallback = <int32_t*>PyMem_Malloc((len(self.pattern) + 1) * sizeof(int32_t))
        if it.starts == NULL or it.fallback == NULL:
            raise MemoryError
        it.starts[0] = 0
        for i in range(it.n_strings):
            start, length, matched = it.starts[i], len(all_strings[i]), 0
            it.starts[i + 1] = start + length
            it.fallback[start] = 0
            for j in range(1, length):
                while matched > 0 and it.pattern[start + matched] != it.pattern[start + j]:
                    matched = it.fallback[start + matched - 1]
                matched += it.pattern[start + matched] == it.pattern[start + j]
                it.fallback[start + j] = matched

    def __dealloc__(self) -> None:
        PyMem_Free(self.automaton.starts)
        PyMem_Free(self.automaton.fallback)


cdef bint ends_text(const Automaton* it, int32_t token, bint too_early, int32_t* states,
                    int64_t* n_bytes, int64_t* visible) noexcept nogil:
    """Add a token to the text; tell whether it completes a stop string, and what may be shown.

    What is completed too early is text like any other.
    """
    cdef uint32_t at
    cdef int32_t i, state, start, length, longest, found = 0
    if <uint32_t>token >= it.n_table:
        return False
    for at in range(it.offsets[token], it.offsets[token + 1]):
        n_bytes[0] += 1
        longest = 0
        for i in range(it.n_strings):
            start, length, state = it.starts[i], it.starts[i + 1] - it.starts[i], states[i]
            while state > 0 and it.pattern[start + state] != it.token_bytes[at]:
                state = it.fallback[start + state - 1]
            state += it.pattern[start + state] == it.token_bytes[at]
            if state == length and too_early:
                state = it.fallback[start + state - 1]
            states[i] = state
            longest = max(longest, state)
            if state == length:
                found = max(found, length)
        visible[0] = n_bytes[0] - (found if found else longest)
        if found:
            return True
    return False

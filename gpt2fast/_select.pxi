# Rankings of a row without sorting. Included by _generate.pyx; needs no GIL.
#
# A token's place is told by a whole number, its rank, 0 for the first, and between equal ranks by
# its position. What a token weighs is a whole number too, its mass: sums of those are exact in any
# order. `select` finds the shortest beginning of a ranking that reaches a mass by adding up masses
# by digit of the rank. Loops are apart so that compilers vectorise them.

cdef extern from *:
    """
    /* The bits of x; for x >= 0 they order like x. */
    static inline int32_t float_bits(float x) {
      int32_t bits;
      memcpy(&bits, &x, sizeof bits);
      return bits;
    }
    """
    int32_t float_bits(float x) noexcept nogil

cdef enum:
    BITS_MAX = 0x7F7FFFFF                # of the largest finite float
    BITS = 0x7FFFFFFF                    # all but the sign
    BITS_ONE = 0x3F800000                # of 1
    RANK_LAST = 0x0F000000               # BITS_ONE less the bits of 2^-30
    MASS_ONE = 1 << 30
    DIGITS = 1024
    DIGIT_LAST = 1023
    LANES = 4
    BLOCK = 64
    NO_TOKEN = -1

cdef struct Scratch:                     # arrays of n_vocab
    float* weights
    int32_t* ranks                       # 0 for the likeliest
    int32_t* masses                      # 0 for what is filtered out
    int32_t* ids                         # the tokens that top_k kept
    int32_t* active                      # work space of select
    float* adjusted                      # logits as the rules leave them, until they are weighed
    int32_t* counts                      # all 0 between uses
    uint64_t environment                 # how the host rounds, while the loop has its own way

cdef struct Ranked:
    int32_t n                            # how many have a mass
    int32_t shift                        # the first digit of a rank is rank >> shift

# A beginning of the ranking: ranks before cut, and those equal to cut at positions up to last.
cdef struct Prefix:
    int32_t cut
    int32_t last


cdef inline uint64_t multiply_high(uint64_t a, uint64_t b) noexcept nogil:
    """Return floor(a * b / 2^64)."""
    cdef uint64_t a0 = <uint32_t>a, a1 = a >> 32, b0 = <uint32_t>b, b1 = b >> 32
    cdef uint64_t middle = a1 * b0 + ((a0 * b0) >> 32)
    return a1 * b1 + (middle >> 32) + ((<uint32_t>middle + a0 * b1) >> 32)


cdef inline uint64_t share(double part, uint64_t whole) noexcept nogil:
    """Return ceil(part * whole), at least 1 and at most whole."""
    cdef double exact = part * <double><int64_t>whole
    cdef uint64_t rounded = <uint64_t><int64_t>exact
    rounded += <double><int64_t>rounded < exact
    return 1 if rounded < 1 else whole if rounded > whole else rounded


cdef Ranked rank(const float* weights, int32_t n, int32_t* ranks) noexcept nogil:
    """Fill ranks[n]; what has no mass comes last, as near as the digits allow."""
    cdef int32_t i, order, largest = 0, last = 0
    cdef Ranked result
    for i in range(n):
        order = BITS_ONE - float_bits(weights[i])
        order = order if order > 0 else 0
        order = order if order < RANK_LAST else RANK_LAST
        ranks[i] = order
        last += order == RANK_LAST
        order = order if order < RANK_LAST else 0
        largest = order if order > largest else largest
    result.n, result.shift = n - last, 0
    while largest >> result.shift >= DIGIT_LAST:
        result.shift += 1
    largest = DIGIT_LAST << result.shift
    if largest < RANK_LAST:
        for i in range(n):
            ranks[i] = ranks[i] if ranks[i] < largest else largest
    return result


cdef uint64_t weigh(const float* weights, int32_t n, int32_t* masses) noexcept nogil:
    """Fill masses[n] and return their sum."""
    cdef int32_t i
    cdef uint64_t total = 0
    for i in range(n):
        masses[i] = <int32_t>(weights[i] * <float>MASS_ONE)
        total += <uint64_t>masses[i]
    return total


cdef uint64_t drop_rest(const int32_t* ranks, int32_t n, Prefix keep, int32_t floor,
                        int32_t* masses) noexcept nogil:
    """Clear the masses outside the prefix or below the floor; return the sum of the others."""
    cdef int32_t i, kept
    cdef uint64_t total = 0
    for i in range(n):
        kept = (ranks[i] < keep.cut) | ((ranks[i] == keep.cut) & (i <= keep.last))
        masses[i] = masses[i] & -(kept & (masses[i] >= floor))
        total += <uint64_t>masses[i]
    return total


cdef int32_t take(const int32_t* ranks, int32_t n, Prefix keep, int32_t* ids) noexcept nogil:
    """List the positions of the prefix and return their number; passes over blocks without any."""
    cdef int32_t i, hits, start = 0, end, k = 0
    while start < n:
        end, hits = min(start + BLOCK, n), 0
        for i in range(start, end):
            hits += ranks[i] <= keep.cut
        if hits:
            for i in range(start, end):
                ids[k] = i
                k += (ranks[i] < keep.cut) | ((ranks[i] == keep.cut) & (i <= keep.last))
        start = end
    return k


cdef void add_first_digits(const int32_t* ranks, const int32_t* masses, int32_t n, int32_t shift,
                           uint64_t* sums) noexcept nogil:
    """Add the masses (NULL: 1 each) by first digit, in LANES places in turn.

    Otherwise each addition to a digit would wait for the one before.
    """
    cdef int32_t i, whole = n & -LANES
    if masses == NULL:
        for i in range(0, whole, 4):
            sums[LANES * (ranks[i] >> shift)] += 1
            sums[LANES * (ranks[i + 1] >> shift) + 1] += 1
            sums[LANES * (ranks[i + 2] >> shift) + 2] += 1
            sums[LANES * (ranks[i + 3] >> shift) + 3] += 1
    else:
        for i in range(0, whole, 4):
            sums[LANES * (ranks[i] >> shift)] += masses[i]
            sums[LANES * (ranks[i + 1] >> shift) + 1] += masses[i + 1]
            sums[LANES * (ranks[i + 2] >> shift) + 2] += masses[i + 2]
            sums[LANES * (ranks[i + 3] >> shift) + 3] += masses[i + 3]
    for i in range(whole, n):
        sums[LANES * (ranks[i] >> shift)] += 1 if masses == NULL else masses[i]


cdef int32_t gather_first_digit(const int32_t* ranks, int32_t n, int32_t shift, int32_t digit,
                                int32_t* active) noexcept nogil:
    """List the positions with that first digit and return their number; skips blocks."""
    cdef int32_t i, hits, start = 0, end, k = 0
    while start < n:
        end, hits = min(start + BLOCK, n), 0
        for i in range(start, end):
            hits += ranks[i] >> shift == digit
        if hits:
            for i in range(start, end):
                active[k] = i
                k += ranks[i] >> shift == digit
        start = end
    return k


cdef int32_t find_digit(const uint64_t* sums, uint64_t target, uint64_t* above) noexcept nogil:
    """Return the digit with which the sum `above` reaches the target; `above` stays before it."""
    cdef int32_t digit = 0, lane
    cdef uint64_t sum
    while True:
        sum = 0
        for lane in range(LANES):
            sum += sums[LANES * digit + lane]
        if above[0] + sum >= target:
            return digit
        above[0] += sum
        digit += 1


cdef Prefix select(const int32_t* ranks, const int32_t* masses, int32_t n, int32_t shift,
                   uint64_t target, int32_t* active) noexcept nogil:
    """Return the shortest beginning of the ranking whose mass reaches the target.

    If masses is NULL each counts 1. The target is at least 1 and at most the whole. A digit is ten
    bits; a round for each, over what the last one left.
    """
    cdef uint64_t sums[LANES * DIGITS]
    cdef uint64_t above = 0
    cdef int32_t i, j, k, m, digit
    cdef Prefix result
    memset(sums, 0, sizeof(sums))
    add_first_digits(ranks, masses, n, shift, sums)
    m = gather_first_digit(ranks, n, shift, find_digit(sums, target, &above), active)
    while shift > 0:
        shift = max(shift - 10, 0)
        memset(sums, 0, sizeof(sums))
        for j in range(m):
            i = active[j]
            digit = ranks[i] >> shift & (DIGITS - 1)
            sums[LANES * digit + (j & (LANES - 1))] += 1 if masses == NULL else masses[i]
        digit = find_digit(sums, target, &above)
        k = 0
        for j in range(m):
            i = active[j]
            active[k] = i
            k += ranks[i] >> shift & (DIGITS - 1) == digit
        m = k
    j = 0
    while above < target:
        above += 1 if masses == NULL else masses[active[j]]
        j += 1
    result.cut, result.last = ranks[active[0]], active[j - 1]
    return result

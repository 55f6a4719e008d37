# One token from a row of logits: filters, then a draw. Included by _generate.pyx; needs no GIL.
#
# Filters act in this order, each on what the one before kept:
#   temperature -> top_k -> typical_p -> top_p -> min_p, or temperature -> mirostat
# Tokens are ranked by weight, exp((logit - max) / temperature) in float32, and between equal
# weights by id, the lower first. top_k keeps the first k, top_p the shortest beginning that holds
# at least that share of the probability, min_p what has at least that share of the likeliest
# token's. One token is always kept. The draw walks the kept ones by id.
#
# typical_p (Meister, Pimentel, Wiher, Cotterell: Locally typical sampling; 2023) ranks tokens by
# how far their surprise, -log(probability), is from the expected one, the nearest first, and keeps
# the shortest beginning that holds that share. mirostat (Basu, Ramachandran, Keskar, Varshney:
# Mirostat; 2021; version 2 as llama.cpp has it) keeps the tokens whose surprise in bits is at most
# mu, the likeliest always; mu, 2 tau at first, falls by eta * (surprise - tau) after each draw, the
# surprise being that of the token among the kept ones.
#
# Weights become integers, floor(2^30 * weight), called masses, so the outcome depends on logits,
# options and draw alone. What is less likely than 2^-30 of the likeliest is never drawn.

cdef struct Filters:
    double temperature                   # 0 takes the likeliest token
    double top_p                         # 1 keeps all
    double min_p                         # 0 keeps all
    double typical_p                     # 1 keeps all
    double tau                           # of mirostat, in bits; 0 is without
    double eta
    double mu
    int32_t top_k                        # 0 keeps all

cdef double LOG_2 = 0.6931471805599453

# The tokens that may be drawn: those of scratch.masses[n] above 0. Position i is token ids[i], or i
# if ids is NULL. If a logit is NaN or +infinity, or all are -infinity, n is NO_TOKEN.
cdef struct Kept:
    const int32_t* ids
    int32_t n
    uint64_t total


cdef Filters checked_filters(double temperature, int32_t top_k, double top_p, double min_p,
                             double typical_p, double tau, double eta) except *:
    """Return the filters; raise ValueError outside the ranges, NaN too, that the masses rely on."""
    cdef Filters filters
    if not ((temperature == 0 or 1e-6 <= temperature <= 1e6) and top_k >= 0
            and 0 < top_p <= 1 and 0 <= min_p <= 1 and 0 < typical_p <= 1):
        raise ValueError("temperature, top_k, top_p, min_p or typical_p is out of range")
    if not (0 <= tau <= 100 and 0 <= eta <= 1):
        raise ValueError("mirostat_tau or mirostat_eta is out of range")
    filters.temperature, filters.top_k, filters.typical_p = temperature, top_k, typical_p
    filters.top_p, filters.min_p = top_p, min_p
    filters.tau, filters.eta, filters.mu = tau, eta, 2 * tau
    return filters


cdef bint has_nan_or_infinity(const float* logits, int32_t n) noexcept nogil:
    """Tell whether a logit is NaN or +infinity; -infinity is a token that is never drawn."""
    cdef int32_t i, bits, found = 0
    for i in range(n):
        bits = float_bits(logits[i])
        found |= (bits > BITS_MAX) | ((bits < 0) & ((bits & 0x7FFFFFFF) > BITS_MAX + 1))
    return found


cdef uint64_t keep_typical(const gpt2fast_api* api, double part, const Kept* kept,
                           Scratch* scratch) noexcept nogil:
    """Clear the masses of the tokens that are not typical; return the sum of the others.

    With m the masses and M their sum, the surprise of a token is log M - log m, the expected one is
    log M - sum(m / M * log m): their distance does not need log M.
    """
    cdef int32_t i, n = kept.n
    cdef float* logs = scratch.weights
    cdef float* terms = scratch.adjusted
    cdef int32_t* distances = <int32_t*>scratch.adjusted
    cdef float total = <float><int64_t>kept.total, mean
    cdef Prefix prefix
    for i in range(n):
        logs[i] = <float>max(scratch.masses[i], 1)
    api.log(logs, logs, n)
    for i in range(n):
        terms[i] = <float>scratch.masses[i] / total * logs[i]
    mean = api.sum(terms, n)
    for i in range(n):
        distances[i] = float_bits(logs[i] - mean) & BITS
    prefix = select(distances, scratch.masses, n, 21, share(part, kept.total), scratch.active)
    return drop_rest(distances, n, prefix, 0, scratch.masses)


cdef int32_t least_mass(const gpt2fast_api* api, double mu, uint64_t total) noexcept nogil:
    """Return the least mass whose surprise, log2(total / mass), is at most mu."""
    cdef float power = <float>(max(mu, 0.0) * -LOG_2)
    api.exp(&power, &power, 1)
    return <int32_t>min(share(power, total), <uint64_t>MASS_ONE)


cdef void observe(const gpt2fast_api* api, Filters* filters, uint64_t total,
                  int32_t mass) noexcept nogil:
    """Move mu by what was drawn."""
    cdef float[2] logs
    logs[0], logs[1] = <float><int64_t>total, <float>mass
    api.log(logs, logs, 2)
    filters.mu -= filters.eta * ((<double>logs[0] - <double>logs[1]) / LOG_2 - filters.tau)


cdef Kept apply_filters(const gpt2fast_api* api, const float* logits, int32_t n,
                        const Filters* filters, Scratch* scratch) noexcept nogil:
    """Leave the masses of the tokens that may be drawn in scratch."""
    cdef float best
    cdef int32_t i, most
    cdef Ranked ranked
    cdef Prefix prefix
    cdef Kept kept
    most = 0 if filters.typical_p < 1 else MASS_ONE
    kept.ids, kept.n, kept.total = NULL, NO_TOKEN, 0
    if has_nan_or_infinity(logits, n):
        return kept
    best = api.max(logits, n)
    if float_bits(best) < 0 and (float_bits(best) & 0x7FFFFFFF) > BITS_MAX:
        return kept
    if filters.temperature == 0:
        i = 0
        while logits[i] != best:
            i += 1
        scratch.ids[0], scratch.masses[0] = i, MASS_ONE
        kept.ids, kept.n, kept.total = scratch.ids, 1, MASS_ONE
        return kept

    kept.n = n
    api.exp_sum(logits, best, <float>(1 / filters.temperature), scratch.weights, n)
    ranked = rank(scratch.weights, n, scratch.ranks)
    prefix.cut, prefix.last = RANK_LAST, n
    if 0 < filters.top_k < ranked.n:
        prefix = select(scratch.ranks, NULL, n, ranked.shift, filters.top_k, scratch.active)
        if filters.top_k < n / 32:
            kept.n = take(scratch.ranks, n, prefix, scratch.ids)
            kept.ids = scratch.ids
            for i in range(kept.n):
                scratch.weights[i] = scratch.weights[kept.ids[i]]
                scratch.ranks[i] = scratch.ranks[kept.ids[i]]
            prefix.last = kept.n
    kept.total = weigh(scratch.weights, kept.n, scratch.masses)
    if 0 < filters.top_k < ranked.n and kept.ids == NULL:
        kept.total = drop_rest(scratch.ranks, n, prefix, 0, scratch.masses)
    if filters.tau > 0:
        kept.total = drop_rest(scratch.ranks, kept.n, prefix,
                               least_mass(api, filters.mu, kept.total), scratch.masses)
        return kept
    if filters.typical_p < 1:
        kept.total = keep_typical(api, filters.typical_p, &kept, scratch)
        for i in range(kept.n):
            most = max(most, scratch.masses[i])
    if filters.top_p < 1:
        prefix = select(scratch.ranks, scratch.masses, kept.n, ranked.shift,
                        share(filters.top_p, kept.total), scratch.active)
    if filters.top_p < 1 or filters.min_p > 0:
        kept.total = drop_rest(scratch.ranks, kept.n, prefix, share(filters.min_p, most),
                               scratch.masses)
    return kept


cdef int32_t draw(const Kept* kept, const int32_t* masses, uint64_t random) noexcept nogil:
    """Return the position of the token at the share random / 2^64 of the kept mass."""
    cdef uint64_t goal = multiply_high(random, kept.total), sum = 0, block
    cdef int32_t start = 0, i
    while True:
        block = 0
        for i in range(start, min(start + BLOCK, kept.n)):
            block += <uint64_t>masses[i]
        if sum + block > goal:
            break
        sum += block
        start += BLOCK
    i = start
    sum += masses[i]
    while sum <= goal:
        i += 1
        sum += masses[i]
    return i


cdef inline int32_t token_at(const Kept* kept, int32_t position) noexcept nogil:
    return position if kept.ids == NULL else kept.ids[position]

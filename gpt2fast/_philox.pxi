# Random bits by counter. Included by _generate.pyx; runs without the GIL.
#
# Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; 2011): a
# bijection of a 128-bit counter under a 64-bit key. Any draw can be computed by itself.

cdef void philox(uint32_t* counter, uint32_t key0, uint32_t key1) noexcept nogil:
    cdef uint64_t product0, product1
    cdef int _
    for _ in range(10):
        product0 = <uint64_t>0xD2511F53 * counter[0]
        product1 = <uint64_t>0xCD9E8D57 * counter[2]
        counter[0] = <uint32_t>(product1 >> 32) ^ counter[1] ^ key0
        counter[1] = <uint32_t>product1
        counter[2] = <uint32_t>(product0 >> 32) ^ counter[3] ^ key1
        counter[3] = <uint32_t>product0
        key0 += <uint32_t>0x9E3779B9
        key1 += <uint32_t>0xBB67AE85


cdef uint64_t random_bits(uint64_t seed, uint32_t sample, uint32_t position) noexcept nogil:
    """Return the bits that draw the token at a position of its text, in one sample of the seed."""
    cdef uint32_t counter[4]
    counter[0], counter[1], counter[2], counter[3] = position, sample, 0, 0
    philox(counter, <uint32_t>seed, <uint32_t>(seed >> 32))
    return counter[0] | (<uint64_t>counter[1] << 32)

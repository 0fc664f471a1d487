/* SHA-256 (FIPS 180-4) of many texts that lie in one buffer. No branch and no address depends on what a text says. */
#ifndef VESICA_SHA256_H
#define VESICA_SHA256_H

static const uint32_t SHA256_START[8] = { /* section 5.3.3 */
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static const uint32_t SHA256_K[64] = { /* section 4.2.2 */
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* Takes `count` blocks of 64 bytes into the state. */
typedef void sha256_blocks(uint32_t state[8], const uint8_t *blocks, size_t count);

static inline uint32_t rotated(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* Section 6.2.2, for every processor. */
static void sha256_blocks_portable(uint32_t state[8], const uint8_t *blocks, size_t count) {
    for (; count; count--, blocks += 64) {
        uint32_t w[16];
        memcpy(w, blocks, sizeof w);
        for (int t = 0; t < 16; t++) w[t] = __builtin_bswap32(w[t]);
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        for (int t = 0; t < 64; t += 16)
            for (int i = 0; i < 16; i++) {
                const uint32_t t1 = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) +
                                    SHA256_K[t + i] + w[i];
                const uint32_t t2 = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
                h = g, g = f, f = e, e = d + t1;
                d = c, c = b, b = a, a = t1 + t2;
                const uint32_t w1 = w[(i + 1) & 15], w14 = w[(i + 14) & 15]; /* the word of 16 rounds later */
                w[i] += (rotated(w1, 7) ^ rotated(w1, 18) ^ w1 >> 3) + w[(i + 9) & 15] +
                        (rotated(w14, 17) ^ rotated(w14, 19) ^ w14 >> 10);
            }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;
        state[4] += e, state[5] += f, state[6] += g, state[7] += h;
    }
}

#ifdef VESICA_X86
/* The same with the processor's own rounds, four at a time. Its registers hold a state as A B E F and C D G H, the first
   letter uppermost (Intel, "SHA Extensions", 2013). */
__attribute__((target("sha,sse4.1"))) static void sha256_blocks_ni(uint32_t state[8], const uint8_t *blocks,
                                                                   size_t count) {
    const __m128i reversed = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203); /* the bytes of each word */
    __m128i dcba = _mm_loadu_si128((const __m128i *)state), hgfe = _mm_loadu_si128((const __m128i *)state + 1);
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; count; count--, blocks += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)blocks + i), reversed);
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) {
            __m128i *const now = &w[i & 3];
            const __m128i after = w[(i + 1) & 3], last = w[(i + 3) & 3]; /* 12 and 4 words ago */
            if (i >= 4) {
                const __m128i ago = _mm_alignr_epi8(last, w[(i + 2) & 3], 4); /* 7 words */
                *now = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(*now, after), ago), last);
            }
            const __m128i words = _mm_add_epi32(*now, _mm_loadu_si128((const __m128i *)SHA256_K + i));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, words);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(words, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)state + 1, _mm_alignr_epi8(dchg, feba, 8));
}

static int has_sha_ni(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("sse4.1") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && b >> 29 & 1;
}
#endif

/* Writes the n digests of data[start, end), whose bounds are 64-bit numbers at any address. Returns the first row that
   does not lie within the data, or -1. */
static int64_t sha256_batch(sha256_blocks *take, uint8_t *digests, const uint8_t *data, uint64_t size,
                            const uint8_t *starts, const uint8_t *ends, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint64_t start = read_once(starts + 8 * i), end = read_once(ends + 8 * i);
        if (start > end || end > size) return (int64_t)i;
        const uint64_t whole = (end - start) / 64, rest = (end - start) % 64, bits = 8 * (end - start);
        const size_t padded = rest < 56 ? 64 : 128; /* 0x80, zeros, and the length in eight bytes */
        uint8_t last[128] = {0};
        memcpy(last, data + start + 64 * whole, rest);
        last[rest] = 0x80;
        for (size_t at = 0; at < 8; at++) last[padded - 1 - at] = (uint8_t)(bits >> 8 * at);
        uint32_t state[8];
        memcpy(state, SHA256_START, sizeof state);
        take(state, data + start, whole);
        take(state, last, padded / 64);
        for (int word = 0; word < 8; word++) state[word] = __builtin_bswap32(state[word]);
        memcpy(digests + 32 * i, state, 32);
    }
    return -1;
}

#endif

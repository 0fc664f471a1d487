/* Finds the first row of 32 bytes that equals an earlier one: a table of row numbers with open addressing.

   Rows come from a partner, who may have chosen them to collide: so a row's place is (w0 + k0)(w1 + k1) + (w2 + k2)(w3 +
   k3) mod 2^64 with a secret key that was drawn for this call, and its upper bits (Carter, Wegman 1981; Thorup 2009,
   "pair-multiply-shift"). Rows are public, and the time depends on them. */
#ifndef VESICA_REPEAT_H
#define VESICA_REPEAT_H

enum { AHEAD = 32 }; /* rows whose places are asked from memory before the first of them is looked at */

static inline uint64_t row_place(const uint8_t *row, const uint64_t key[5]) {
    uint64_t w[4];
    memcpy(w, row, 32);
    const uint64_t sum = (w[0] + key[0]) * (w[1] + key[1]) + (w[2] + key[2]) * (w[3] + key[3]);
    const unsigned __int128 spread = (unsigned __int128)(sum ^ sum >> 32) * (key[4] | 1); /* lower bits reach the upper */
    return (uint64_t)spread ^ (uint64_t)(spread >> 64);
}

/* Returns the first row of n < 2^31 that equals an earlier one, or -1, or NO_MEMORY. */
static int64_t first_repeat(const uint8_t *rows, size_t n, const uint64_t key[5]) {
    unsigned bits = 4;
    while (((size_t)1 << bits) < 2 * n) bits++;
    const size_t last = ((size_t)1 << bits) - 1;
    uint64_t *const table = calloc(last + 1, sizeof *table); /* the hash's upper half, and 1 + the row; 0 is free */
    uint64_t hashes[AHEAD];
    int64_t found = -1;
    if (!table) return NO_MEMORY;
    for (size_t base = 0; base < n && found < 0; base += AHEAD) {
        const size_t count = n - base < AHEAD ? n - base : AHEAD;
        for (size_t i = 0; i < count; i++) {
            hashes[i] = row_place(rows + 32 * (base + i), key);
            __builtin_prefetch(&table[hashes[i] >> (64 - bits)], 1);
        }
        for (size_t i = 0; i < count && found < 0; i++) {
            const uint8_t *const row = rows + 32 * (base + i);
            const uint64_t entry = hashes[i] << 32 | (base + i + 1); /* the half that says least about the place */
            size_t place = hashes[i] >> (64 - bits);
            for (; table[place]; place = (place + 1) & last)
                if (table[place] >> 32 == entry >> 32 &&
                    memcmp(rows + 32 * ((table[place] & UINT32_MAX) - 1), row, 32) == 0) {
                    found = (int64_t)(base + i);
                    break;
                }
            if (found < 0) table[place] = entry;
        }
    }
    free(table);
    return found;
}

#endif

/* Where rows of one sorted table occur in another: rows of bytes, compared from the first byte on. The time is linear in the
   rows of both, or in the fewer ones where the table is much larger. */
#ifndef VESICA_MERGE_H
#define VESICA_MERGE_H

enum { NOT_SORTED = -1, LINEAR = 16 }; /* up to so many rows of the table for one that is looked for, each is read */

struct table {
    const uint8_t *first;
    ptrdiff_t stride;
    size_t count;
};

static inline const uint8_t *row_of(const struct table *table, size_t place) {
    return table->first + (ptrdiff_t)place * table->stride;
}

static inline uint64_t beginning(const uint8_t *row) {
    uint64_t word;
    memcpy(&word, row, sizeof word);
    return __builtin_bswap64(word);
}

/* Below zero, zero, or above it, as `row` is below the other one, equal to it, or above it. */
static inline int compare(const uint8_t *row, const uint8_t *other, size_t width) {
    const uint64_t a = beginning(row), b = beginning(other);
    return a != b ? (a < b ? -1 : 1) : memcmp(row + sizeof a, other + sizeof a, width - sizeof a);
}

/* The first place from `low` on whose row is not below the one that is looked for: by steps that double, then by halves. */
static size_t gallop(const struct table *table, size_t low, const uint8_t *row, size_t width) {
    size_t step = 1;
    while (step <= table->count - low && compare(row_of(table, low + step - 1), row, width) < 0) {
        low += step;
        step *= 2;
    }
    for (size_t high = step <= table->count - low ? low + step - 1 : table->count; low < high;) {
        const size_t middle = low + (high - low) / 2;
        if (compare(row_of(table, middle), row, width) < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Writes where each of the sought rows that occurs in the table stands there first, and which one it is. Returns how many do,
   or NOT_SORTED if the sought ones are not. The places depend on the counts alone, so that rows which change meanwhile change
   the result only. */
static int64_t merge_tables(int64_t *places, int64_t *found, const struct table *table, const struct table *sought,
                            size_t width) {
    const int few = table->count / LINEAR > sought->count;
    size_t place = 0, count = 0;
    for (size_t i = 0; i < sought->count; i++) {
        const uint8_t *const row = row_of(sought, i);
        if (i && compare(row, row_of(sought, i - 1), width) < 0) return NOT_SORTED;
        if (few) place = gallop(table, place, row, width);
        int order = -1;
        while (place < table->count && (order = compare(row_of(table, place), row, width)) < 0) place++;
        if (place < table->count && order == 0) {
            places[count] = (int64_t)place;
            found[count++] = (int64_t)i;
        }
    }
    return (int64_t)count;
}

#endif

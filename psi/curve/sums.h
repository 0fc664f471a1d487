/* Sums of points, and multi-scalar multiplication (Pippenger) in variable time: its scalars are public.

   Several batches may share the scalars, and with them all but the additions themselves.

   Each scalar is cut into windows of `width` bits with signed digits; a window sorts the points into the bucket of
   their digit's magnitude and adds up each bucket. Lanes work on different buckets, which are taken in the order of
   their sizes, so that few lanes wait. Then a window's sum is sum_b b * B_b: lane l runs down its own stretch of m
   buckets with a running sum, which gives sum_i i * B_(l m + i), to which it adds (l m) times its last running sum. */
#ifndef VESICA_SUMS_H
#define VESICA_SUMS_H

#define BUCKET ((4 * LIMBS + 7) / 8 * 8) /* words of a bucket's sum */

static inline fe fe_rotate(fe a, size_t by) {
    for (int i = 0; i < LIMBS; i++) {
        uint64_t from[LANES], to[LANES];
        memcpy(from, &a.limb[i], sizeof from);
        for (size_t lane = 0; lane < LANES; lane++) to[lane] = from[(lane + by) % LANES];
        memcpy(&a.limb[i], to, sizeof to);
    }
    return a;
}

/* The sum of all lanes, in every lane. */
static point fold_lanes(point p) {
    for (size_t by = LANES / 2; by; by /= 2) {
        point other = {fe_rotate(p.X, by), fe_rotate(p.Y, by), fe_rotate(p.Z, by), fe_rotate(p.T, by)};
        point_add(&p, &other);
    }
    return p;
}

static int64_t batch_sum(uint8_t sum[32], const uint8_t *elements, size_t n) {
    point total = point_identity(), p[WIDE];
    for (size_t base = 0; base < n; base += WIDE * LANES) {
        const int64_t bad = decode_groups(p, elements, base, n, 1);
        if (bad >= 0) return bad;
        for (size_t j = 0; j < WIDE; j++) point_add(&total, &p[j]);
    }
    total = fold_lanes(total);
    fe s;
    ristretto_encode(&s, &total, 1);
    fe_store(sum, 1, s);
    return -1;
}

/* The width that costs least, of those whose highest window is not left with one or two bits: such a window would put
   all points into a bucket or two, and lanes would wait. */
static int window_width(size_t n) {
    static const int widths[] = {5, 8, 10, 11, 13};
    size_t best = 0, least = SIZE_MAX;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        const size_t windows = (size_t)(253 + widths[i] - 1) / (size_t)widths[i];
        const size_t cost = windows * (n + ((size_t)3 << (widths[i] - 1)));
        if (cost < least) least = cost, best = i;
    }
    return widths[best];
}

/* a in signed digits -2^(width-1) < digit <= 2^(width-1), which lie n apart in `out`. For a below L the highest window
   needs no carry: bit 252 is followed by zeros only. */
static void window_digits_vartime(int16_t *out, size_t n, int width, int windows, scalar a) {
    int carry = 0;
    for (int window = 0; window < windows; window++) {
        const int bit = window * width, word = bit / 64, shift = bit % 64;
        uint64_t bits = a.word[word] >> shift;
        if (shift + width > 64 && word < 3) bits |= a.word[word + 1] << (64 - shift);
        const int digit = (int)(bits & ((1u << width) - 1)) + carry;
        carry = window + 1 < windows && digit > 1 << (width - 1);
        out[(size_t)window * n] = (int16_t)(digit - (carry << width));
    }
}

struct window_work { /* of one multi-scalar multiplication */
    size_t n, buckets;
    uint64_t (*sums)[BUCKET];
    uint32_t *starts, *sizes, *order, *entries, *places; /* an entry is 2 * index + (is negative); AHEAD more are 0 */
};

/* Sorts the points into buckets, and the buckets by size, largest first. */
static void window_sort_vartime(struct window_work *work, const int16_t *window) {
    const size_t n = work->n, buckets = work->buckets;
    uint32_t *const sizes = work->sizes, *const places = work->places;
    uint32_t largest = 0, total = 0;
    memset(sizes, 0, buckets * sizeof *sizes);
    for (size_t i = 0; i < n; i++)
        if (window[i]) sizes[abs(window[i]) - 1]++;
    for (size_t bucket = 0; bucket < buckets; bucket++) {
        work->starts[bucket] = places[bucket] = total;
        total += sizes[bucket];
        if (sizes[bucket] > largest) largest = sizes[bucket];
    }
    for (size_t i = 0; i < n; i++)
        if (window[i]) work->entries[places[abs(window[i]) - 1]++] = (uint32_t)(2 * i + (window[i] < 0));
    memset(places, 0, (largest + 2) * sizeof *places);
    for (size_t bucket = 0; bucket < buckets; bucket++) places[largest - sizes[bucket] + 1]++;
    for (size_t i = 0; i < largest; i++) places[i + 1] += places[i];
    for (size_t bucket = 0; bucket < buckets; bucket++)
        work->order[places[largest - sizes[bucket]]++] = (uint32_t)bucket;
}

#define AHEAD 4 /* steps: rows lie anywhere in some megabytes; one that is asked for so early has come when it is added */

static inline const uint8_t *decoded_row(const struct window_work *work, const uint8_t *decoded, uint32_t at) {
    return decoded + 8 * DECODED * (size_t)(work->entries[at] / 2);
}

static inline void fetch_row(const uint8_t *row) {
    for (size_t at = 0; at < 8 * DECODED; at += 64) __builtin_prefetch(row + at);
}

/* The sum over one window's buckets, in lanes that are still to be added. */
static point window_sum_vartime(const struct window_work *work, const uint8_t *decoded) {
    const size_t buckets = work->buckets, stretch = buckets / LANES;
    for (size_t group = 0; group < buckets; group += LANES) {
        const uint32_t *const here = work->order + group;
        const uint32_t most = work->sizes[here[0]], least = work->sizes[here[LANES - 1]];
        const uint32_t *const next = group + LANES < buckets ? here + LANES : here;
        void *to[LANES];
        point sum = point_identity();
        lanes limbs[DECODED];
        cached q;
        for (uint32_t step = 0; step < most; step++) {
            const void *from[LANES];
            unsigned negative = 0;
            for (size_t lane = 0; lane < LANES; lane++) {
                const uint32_t at = work->starts[here[lane]] + step;
                from[lane] = IDENTITY_ROW;
                if (step < least || step < work->sizes[here[lane]]) {
                    from[lane] = decoded_row(work, decoded, at);
                    negative |= (work->entries[at] & 1) << lane;
                    fetch_row(decoded_row(work, decoded, at + AHEAD));
                }
                if (step < AHEAD) fetch_row(decoded_row(work, decoded, work->starts[next[lane]] + step));
            }
            LANES_GATHER(limbs, from, 3 * LIMBS);
            memcpy(&q, limbs, 3 * sizeof(fe)); /* plus, minus, T2d; Z = 1 */
            point_add_affine(&sum, &q, mask_from_bits(negative));
        }
        for (size_t lane = 0; lane < LANES; lane++) to[lane] = work->sums[here[lane]];
        lanes_scatter(to, (const lanes *)&sum, 4 * LIMBS);
    }

    point running = point_identity(), weighted = point_identity(), offset = point_identity();
    for (size_t i = stretch; i-- > 0;) {
        const void *from[LANES];
        lanes limbs[BUCKET];
        point bucket;
        for (size_t lane = 0; lane < LANES; lane++) from[lane] = work->sums[lane * stretch + i];
        LANES_GATHER(limbs, from, 4 * LIMBS);
        memcpy(&bucket, limbs, sizeof bucket);
        point_add(&running, &bucket);
        point_add(&weighted, &running);
    }
    for (unsigned bit = LANES / 2; bit; bit /= 2) { /* lane * running, bit by bit */
        unsigned has = 0;
        for (unsigned lane = 0; lane < LANES; lane++) has |= (lane & bit ? 1u : 0u) << lane;
        const point addend = point_select(mask_from_bits(has), running, point_identity());
        point_double(&offset);
        point_add(&offset, &addend);
    }
    for (size_t times = stretch; times > 1; times /= 2) point_double(&offset); /* stretch is a power of 2 */
    point_add(&weighted, &offset);
    return weighted;
}

static int64_t buckets_vartime(point *results, const uint8_t *scalars, const uint8_t *const *decoded, size_t count,
                               size_t n) {
    const int width = window_width(n), windows = (253 + width - 1) / width;
    const size_t buckets = (size_t)1 << (width - 1), more = buckets > n ? buckets : n;
    struct window_work work = {.n = n, .buckets = buckets};
    int16_t *const window_digits = room_for((size_t)windows * n, sizeof(int16_t));
    uint32_t *const numbers = room_for(3 * buckets + n + AHEAD + more + 2, sizeof(uint32_t));
    work.sums = room_for(buckets, sizeof *work.sums);
    const int64_t bad = window_digits && numbers && work.sums ? -1 : NO_MEMORY;
    if (bad == -1) {
        work.starts = numbers;
        work.sizes = work.starts + buckets;
        work.order = work.sizes + buckets;
        work.entries = work.order + buckets;
        work.places = work.entries + n + AHEAD;
        memset(work.entries, 0, (n + AHEAD) * sizeof *work.entries);
        for (size_t i = 0; i < n; i++)
            window_digits_vartime(window_digits + i, n, width, windows, scalar_half(scalar_load(scalars + 32 * i)));
    }
    for (int window = windows; window-- > 0 && bad == -1;) {
        window_sort_vartime(&work, window_digits + (size_t)window * n);
        for (size_t batch = 0; batch < count; batch++) {
            for (int i = 0; i < width; i++) point_double(&results[batch]);
            const point sum = window_sum_vartime(&work, decoded[batch]);
            point_add(&results[batch], &sum);
        }
    }
    free(window_digits);
    free(numbers);
    free(work.sums);
    return bad;
}

/* Too few for buckets. */
static void few_vartime(point *result, const uint8_t *scalars, const uint8_t *decoded, size_t n) {
    for (size_t base = 0; base < n; base += WIDE * LANES) {
        point p[WIDE];
        digits d;
        load_groups(p, decoded, base, n);
        for (size_t j = 0; j < WIDE; j++) {
            const size_t at = base + j * LANES, rows = lanes_left(n, at);
            if (!rows) break;
            load_digits(&d, scalars + 32 * at, 32, rows);
            point_multiply(&p[j], &d);
            point_add(result, &p[j]);
        }
    }
}

static int64_t batch_multi_scalar_vartime(uint8_t *sums, const uint8_t *scalars, const uint8_t *const *decoded,
                                          size_t count, size_t n) {
    point totals[MAX_BATCHES];
    for (size_t batch = 0; batch < count; batch++) totals[batch] = point_identity();
    if (n >= 8 * LANES) {
        const int64_t bad = buckets_vartime(totals, scalars, decoded, count, n);
        if (bad != -1) return bad;
    } else {
        for (size_t batch = 0; batch < count; batch++) few_vartime(&totals[batch], scalars, decoded[batch], n);
    }
    for (size_t batch = 0; batch < count; batch++) {
        const point total = fold_lanes(totals[batch]);
        doubled twice;
        ristretto_double(&twice, &total);
        doubled_invert(&twice, 1);
        fe_store(sums + 32 * batch, 1, ristretto_encode_doubled(&twice, twice.efgh));
    }
    return -1;
}

#endif

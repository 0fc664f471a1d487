/* ristretto255 over any fe_<isa>.h: LANES points side by side.

   The curve is -x^2 + y^2 = 1 + d x^2 y^2 over 2^255 - 19. A point is (X : Y : Z : T), x = X/Z, y = Y/Z, T = XY/Z
   (extended coordinates; Hisil, Wong, Carter, Dawson 2008: "HWCD"). Their addition is complete here (-1 is a square and
   d is not), so that no point needs a branch. ristretto255 (RFC 9496) is the quotient of twice the curve by its four
   points of order 1, 2, 4: eight curve points stand for one element, and an encoding picks one of them.

   Multiplication. A scalar k of 253 bits becomes 64 signed digits, sum digit_i 16^i, -8 <= digit_i <= 8. The table has
   P .. 8P as (Y+X, Y-X, 2dT, 2Z); each digit costs four doublings and one addition of an entry that is found by reading
   all eight and keeping one under a mask. No address and no branch depends on a digit.

   Double and encode. The encoding of a point takes an inverse square root, 265 multiplications. That of 2Q takes one
   inverse, which can be shared (section "Encoding" below). So products are computed with k/2 mod L and encoded as 2Q,
   and all points of a chunk share one inversion a lane (Montgomery's trick). */
#ifndef VESICA_POINT_H
#define VESICA_POINT_H

/* The products of the formulas below, from memory to memory; a backend may have one that is called instead. */
#ifndef FE_MUL
#define FE_MUL(result, a, b) (*(result) = fe_mul(*(a), *(b)))
#define FE_SQUARE(result, a) (*(result) = fe_square(*(a)))
#endif

typedef struct { fe X, Y, Z, T; } point;
typedef struct { fe plus, minus, T2d, Z2; } cached; /* Y + X, Y - X, 2dT, 2Z */

/* Fields */

FIELD fe fe_select(mask choose, fe yes, fe no) {
    fe r;
    UNROLLED for (int i = 0; i < LIMBS; i++) r.limb[i] = lanes_select(choose, yes.limb[i], no.limb[i]);
    return r;
}

FIELD fe fe_zero(void) {
    fe r;
    UNROLLED for (int i = 0; i < LIMBS; i++) r.limb[i] = lanes_all(0);
    return r;
}

FIELD mask fe_is_zero(fe a) {
    a = fe_freeze(a);
    lanes any = a.limb[0];
    UNROLLED for (int i = 1; i < LIMBS; i++) any |= a.limb[i];
    return lanes_equal(any, 0);
}

FIELD mask fe_is_negative(fe a) { return lanes_equal(fe_freeze(a).limb[0] & 1, 1); } /* odd: RFC 9496, 4.1 */
FIELD fe fe_absolute(fe a) { return fe_select(fe_is_negative(a), fe_negate(a), a); }

/* Squares each of a[0 .. count - 1] `times` times. The chains do not wait for each other. */
FIELD void fe_square_times(fe *a, int count, int times) {
    while (times--)
        for (int j = 0; j < count; j++) a[j] = fe_square(a[j]);
}

FIELD void fe_mul_each(fe *r, const fe *a, const fe *b, int count) {
    for (int j = 0; j < count; j++) r[j] = fe_mul(a[j], b[j]);
}

/* high = z^(2^250 - 1), z11 = z^11: the common part of inversion and square root, 249 squarings and 11 products. */
APART void fe_power_250(fe *high, fe *z11, const fe *z, int count) {
    fe a[WIDE], b[WIDE], c[WIDE];
    const size_t size = (size_t)count * sizeof(fe);
    memcpy(a, z, size);
    fe_square_times(a, count, 1); /* 2 */
    memcpy(b, a, size);
    fe_square_times(b, count, 2); /* 8 */
    fe_mul_each(b, b, z, count); /* 9 */
    fe_mul_each(z11, a, b, count); /* 11 */
    memcpy(a, z11, size);
    fe_square_times(a, count, 1); /* 22 */
    fe_mul_each(a, a, b, count); /* 2^5 - 1 */
    memcpy(b, a, size);
    fe_square_times(b, count, 5);
    fe_mul_each(a, a, b, count); /* 2^10 - 1 */
    memcpy(b, a, size);
    fe_square_times(b, count, 10);
    fe_mul_each(b, b, a, count); /* 2^20 - 1 */
    memcpy(c, b, size);
    fe_square_times(c, count, 20);
    fe_mul_each(b, b, c, count); /* 2^40 - 1 */
    fe_square_times(b, count, 10);
    fe_mul_each(a, a, b, count); /* 2^50 - 1 */
    memcpy(b, a, size);
    fe_square_times(b, count, 50);
    fe_mul_each(b, b, a, count); /* 2^100 - 1 */
    memcpy(c, b, size);
    fe_square_times(c, count, 100);
    fe_mul_each(b, b, c, count); /* 2^200 - 1 */
    fe_square_times(b, count, 50);
    fe_mul_each(high, a, b, count); /* 2^250 - 1 */
}

/* a = 1/a = a^(p - 2), p - 2 = 2^255 - 21 = 32 (2^250 - 1) + 11; 0 for 0. */
APART void fe_invert(fe *a) {
    fe high, z11;
    fe_power_250(&high, &z11, a, 1);
    fe_square_times(&high, 1, 5);
    *a = fe_mul(high, z11);
}

/* SQRT_RATIO_M1 of RFC 9496, section 4.2, for `count` <= WIDE pairs: root = |sqrt(u/v)| and true where u/v is a square,
   else |sqrt(i u/v)| and false. u and v are tight. */
static void fe_sqrt_ratio(mask *was_square, fe *root, const fe *u, const fe *v, int count) {
    fe v3[WIDE], uv7[WIDE], unused[WIDE], power[WIDE];
    for (int j = 0; j < count; j++) {
        v3[j] = fe_mul(fe_square(v[j]), v[j]);
        uv7[j] = fe_mul(fe_mul(fe_square(v3[j]), v[j]), u[j]);
    }
    fe_power_250(power, unused, uv7, count);
    fe_square_times(power, count, 2);
    for (int j = 0; j < count; j++) {
        const fe i = fe_constant(SQRT_M1);
        fe r = fe_mul(fe_mul(u[j], v3[j]), fe_mul(power[j], uv7[j])); /* u v^3 (u v^7)^((p-5)/8), (p-5)/8 = 2^252 - 3 */
        fe check = fe_mul(v[j], fe_square(r));
        mask correct = fe_is_zero(fe_sub(check, u[j]));
        mask flipped = fe_is_zero(fe_add(check, u[j]));
        mask flipped_i = fe_is_zero(fe_add(check, fe_mul(u[j], i)));
        r = fe_select(flipped | flipped_i, fe_mul(r, i), r);
        was_square[j] = correct | flipped;
        root[j] = fe_absolute(r);
    }
}

/* Points */

FIELD point point_identity(void) {
    fe zero = fe_zero(), one = fe_constant(ONE);
    return (point){zero, one, one, zero};
}

FIELD point point_select(mask choose, point yes, point no) {
    return (point){fe_select(choose, yes.X, no.X), fe_select(choose, yes.Y, no.Y), fe_select(choose, yes.Z, no.Z),
                   fe_select(choose, yes.T, no.T)};
}

FIELD void point_cache(cached *r, const point *p) {
    r->plus = fe_add(p->Y, p->X);
    r->minus = fe_sub(p->Y, p->X);
    r->T2d = fe_mul(p->T, fe_constant(TWICE_D));
    r->Z2 = fe_add(p->Z, p->Z);
}

/* HWCD, section 3.3 (a = -1), with the signs of F and H turned: the point is the same.
   A = X^2, B = Y^2, H = A + B, E = 2XY, G = B - A, F = 2Z^2 - G; X' = EF, Y' = GH, Z' = FG, T' = EH. */
#ifndef DOUBLE_TERMS
#define DOUBLE_TERMS double_terms
FIELD void double_terms(const point *p, fe *E, fe *F, fe *G, fe *H) {
    fe A, B, C, S, sum = fe_add(p->X, p->Y);
    FE_SQUARE(&A, &p->X);
    FE_SQUARE(&B, &p->Y);
    FE_SQUARE(&C, &p->Z);
    FE_SQUARE(&S, &sum);
    *H = fe_add(A, B);
    *E = fe_sub(S, *H); /* (X+Y)^2 - X^2 - Y^2: here a square costs less than a product */
    *G = fe_sub(B, A);
    *F = fe_sub(fe_add(fe_add(C, C), A), B); /* three tight limbs are below EVEN */
}
#endif

/* p = (EF : GH : FG : EH); T is left alone without `with_T`. */
FIELD void point_from_terms(point *p, const fe *E, const fe *F, const fe *G, const fe *H, int with_T) {
    FE_MUL(&p->X, E, F);
    FE_MUL(&p->Y, G, H);
    FE_MUL(&p->Z, F, G);
    if (with_T) FE_MUL(&p->T, E, H);
}

FIELD void double_in_place(point *p, int with_T) {
    fe E, F, G, H;
    DOUBLE_TERMS(p, &E, &F, &G, &H);
    point_from_terms(p, &E, &F, &G, &H, with_T);
}
APART void point_double(point *p) { double_in_place(p, 1); }
APART void point_double_without_T(point *p) { double_in_place(p, 0); }

/* HWCD, section 3.1 (a = -1): A = (Y1-X1)(Y2-X2), B = (Y1+X1)(Y2+X2), C = 2d T1 T2, D = 2 Z1 Z2, E = B - A, F = D - C,
   G = D + C, H = B + A; X' = EF, Y' = GH, Z' = FG, T' = EH. */
#ifndef ADD_TERMS
#define ADD_TERMS add_terms
FIELD void add_terms(const point *p, const fe *plus, const fe *minus, const fe *T2d, const fe *Z2, fe *E, fe *H,
                     fe *difference, fe *sum) {
    fe A = fe_sub(p->Y, p->X), B = fe_add(p->Y, p->X), C, D2;
    FE_MUL(&A, &A, minus);
    FE_MUL(&B, &B, plus);
    FE_MUL(&C, &p->T, T2d);
    if (Z2) FE_MUL(&D2, &p->Z, Z2);
    else D2 = fe_add(p->Z, p->Z);
    *E = fe_sub(B, A);
    *H = fe_add(B, A);
    *difference = fe_sub(D2, C);
    *sum = fe_add(D2, C); /* three tight limbs at most */
}
#endif

/* p += q, or p -= q in the lanes that are `negative`: there Y+X and Y-X change places, and F and G (the sign of C).
   `affine` says that Z2 is 2. */
FIELD void add_in_place(point *p, const cached *q, mask negative, int affine, int with_T) {
    fe E, H, difference, sum;
    const fe plus = fe_select(negative, q->minus, q->plus), minus = fe_select(negative, q->plus, q->minus);
    ADD_TERMS(p, &plus, &minus, &q->T2d, affine ? NULL : &q->Z2, &E, &H, &difference, &sum);
    const fe F = fe_select(negative, sum, difference), G = fe_select(negative, difference, sum);
    point_from_terms(p, &E, &F, &G, &H, with_T);
}
APART void point_add_cached(point *p, const cached *q) { add_in_place(p, q, mask_from_bits(0), 0, 1); }
APART void point_add_digit(point *p, const cached *q, mask negative) { add_in_place(p, q, negative, 0, 0); }
APART void point_add_affine(point *p, const cached *q, mask negative) { add_in_place(p, q, negative, 1, 1); }

APART void point_add(point *p, const point *q) {
    cached entry;
    point_cache(&entry, q);
    point_add_cached(p, &entry);
}

/* A scalar for each lane, as 64 signed digits of radix 16: magnitudes 0 .. 8, and which are negative (1 or 0). */
typedef struct { lanes magnitude[64], negative[64]; } digits;

/* field = table[digit - 1].field, or `none` for 0: eight loads under masks. */
FIELD fe fe_lookup(const cached table[8], size_t field, const mask here[8], fe none) {
    UNROLLED for (int i = 0; i < 8; i++) none = fe_select(here[i], *(const fe *)((const char *)&table[i] + field), none);
    return none;
}

/* p = the sum of digit_i 16^i p, in constant time. */
APART void point_multiply(point *p, const digits *scalar) {
    const fe one = fe_constant(ONE);
    cached table[8]; /* P .. 8P */
    point multiple[8];
    multiple[0] = *p;
    point_cache(&table[0], p);
    for (int i = 1; i < 8; i++) {
        multiple[i] = multiple[i % 2 ? i / 2 : i - 1];
        if (i % 2) point_double(&multiple[i]); /* 2P, 4P, 6P, 8P */
        else point_add_cached(&multiple[i], &table[0]);
        point_cache(&table[i], &multiple[i]);
    }
    *p = point_identity();
    for (int place = 63; place >= 0; place--) {
        if (place < 63) {
            for (int i = 0; i < 3; i++) point_double_without_T(p);
            point_double(p);
        }
        mask here[8];
        cached entry;
        for (unsigned i = 0; i < 8; i++) here[i] = lanes_equal(scalar->magnitude[place], i + 1);
        entry.plus = fe_lookup(table, offsetof(cached, plus), here, one);
        entry.minus = fe_lookup(table, offsetof(cached, minus), here, one);
        entry.T2d = fe_lookup(table, offsetof(cached, T2d), here, fe_zero());
        entry.Z2 = fe_lookup(table, offsetof(cached, Z2), here, fe_add(one, one));
        mask negative = lanes_equal(scalar->negative[place], 1);
        if (place) point_add_digit(p, &entry, negative); /* a doubling reads no T */
        else add_in_place(p, &entry, negative, 0, 1);
    }
}

/* Bytes */

/* A row is canonical and not negative: s < p, s even (so bit 255 is clear). 1 or 0. */
static inline uint64_t row_is_canonical(const uint64_t w[4]) {
    const uint64_t p[4] = {0xffffffffffffffed, ~0ull, ~0ull, ~0ull >> 1};
    uint64_t borrow = 0;
    for (int i = 0; i < 4; i++) /* s - p borrows exactly if s < p */
        borrow = (uint64_t)(((unsigned __int128)w[i] - p[i] - borrow) >> 64) & 1;
    return borrow & ~w[0] & 1;
}

/* LANES rows of 32 bytes; bit 255 is dropped. Rows from `rows` on count as zero. `good` and `zero`, if asked for, tell
   which rows are canonical and which are zero. */
FIELD fe fe_load(const uint8_t *bytes, size_t stride, size_t rows, mask *good, mask *zero) {
    uint64_t words[4][LANES], canonical[LANES];
    lanes w[4], canonical_lanes;
    for (size_t lane = 0; lane < LANES; lane++) {
        uint64_t row[4] = {0};
        if (lane < rows) memcpy(row, bytes + lane * stride, 32);
        for (int i = 0; i < 4; i++) words[i][lane] = row[i];
        canonical[lane] = row_is_canonical(row);
    }
    memcpy(w, words, sizeof w);
    if (good) {
        memcpy(&canonical_lanes, canonical, sizeof canonical_lanes);
        *good = lanes_equal(canonical_lanes, 1);
        *zero = lanes_equal(w[0] | w[1] | w[2] | w[3], 0);
    }
    return fe_from_words(w);
}

FIELD void fe_store(uint8_t *bytes, size_t rows, fe a) {
    uint64_t words[4][LANES];
    lanes w[4];
    fe_to_words(w, fe_freeze(a));
    memcpy(words, w, sizeof w);
    for (size_t lane = 0; lane < LANES && lane < rows; lane++)
        for (int i = 0; i < 4; i++) memcpy(bytes + 32 * lane + 8 * i, &words[i][lane], 8);
}

/* Decoding */

/* DECODE of RFC 9496, section 4.3.1, of `count` <= WIDE elements; `good` is false where it fails. */
static void ristretto_decode(point *p, mask *good, const fe *s, int count) {
    const fe one = fe_constant(ONE);
    fe u1[WIDE], u2[WIDE], u2_squared[WIDE], v[WIDE], ones[WIDE], product[WIDE], root[WIDE];
    mask was_square[WIDE];
    for (int j = 0; j < count; j++) {
        fe ss = fe_square(s[j]);
        u1[j] = fe_sub(one, ss);
        u2[j] = fe_add(one, ss);
        u2_squared[j] = fe_square(u2[j]);
        v[j] = fe_negate(fe_add(fe_mul(fe_constant(D), fe_square(u1[j])), u2_squared[j])); /* -(D u1^2) - u2^2 */
        product[j] = fe_mul(v[j], u2_squared[j]);
        ones[j] = one;
    }
    fe_sqrt_ratio(was_square, root, ones, product, count); /* 1 / sqrt(v u2^2) */
    for (int j = 0; j < count; j++) {
        fe den_x = fe_mul(root[j], u2[j]);
        fe den_y = fe_mul(fe_mul(root[j], den_x), v[j]);
        p[j].X = fe_tighten(fe_absolute(fe_mul(fe_add(s[j], s[j]), den_x)));
        p[j].Y = fe_mul(u1[j], den_y);
        p[j].Z = one;
        p[j].T = fe_mul(p[j].X, p[j].Y);
        good[j] = was_square[j] & ~fe_is_negative(p[j].T) & ~fe_is_zero(p[j].Y);
    }
}

/* Encoding */

/* ENCODE of RFC 9496, section 4.3.2, of `count` <= WIDE elements, as field elements that are not negative. */
static void ristretto_encode(fe *s, const point *p, int count) {
    fe u1[WIDE], u2[WIDE], product[WIDE], ones[WIDE], root[WIDE];
    mask was_square[WIDE]; /* always true here, or the product is 0 */
    for (int j = 0; j < count; j++) {
        u1[j] = fe_mul(fe_add(p[j].Z, p[j].Y), fe_sub(p[j].Z, p[j].Y));
        u2[j] = fe_mul(p[j].X, p[j].Y);
        product[j] = fe_mul(u1[j], fe_square(u2[j]));
        ones[j] = fe_constant(ONE);
    }
    fe_sqrt_ratio(was_square, root, ones, product, count);
    for (int j = 0; j < count; j++) {
        const fe i = fe_constant(SQRT_M1);
        fe den1 = fe_mul(root[j], u1[j]), den2 = fe_mul(root[j], u2[j]);
        fe inverse_Z = fe_mul(fe_mul(den1, den2), p[j].T);
        mask rotate = fe_is_negative(fe_mul(p[j].T, inverse_Z));
        fe x = fe_select(rotate, fe_mul(p[j].Y, i), p[j].X);
        fe y = fe_select(rotate, fe_mul(p[j].X, i), p[j].Y);
        fe den = fe_select(rotate, fe_mul(den1, fe_constant(INVSQRT_A_MINUS_D)), den2);
        y = fe_select(fe_is_negative(fe_mul(x, inverse_Z)), fe_negate(y), y);
        s[j] = fe_absolute(fe_mul(den, fe_sub(p[j].Z, y)));
    }
}

/* The encoding of 2Q in two halves around one inversion (ristretto.group, "batched double and encode"). With e = 2XY,
   f = Z^2 + dT^2, g = Y^2 + X^2, h = Z^2 - dT^2 the double is x = e/f, y = g/h, so xy = eg/fh. Up to signs the square
   root that ENCODE needs is a product of these and of constants: what is left is 1/(efgh), from which come
   1/fh = eg/(efgh) and 1/eg = fh/(efgh). Where efgh = 0 the double is the identity, and the inverse counts as 0. */
typedef struct { fe e, f, g, h, eg, fh, efgh, before; } doubled;

APART void ristretto_double(doubled *r, const point *p) {
    fe XX = fe_square(p->X), YY = fe_square(p->Y), ZZ = fe_square(p->Z), XY = fe_mul(p->X, p->Y);
    fe dTT = fe_mul(fe_square(p->T), fe_constant(D));
    r->e = fe_tighten(fe_add(XY, XY));
    r->f = fe_add(ZZ, dTT);
    r->g = fe_add(YY, XX);
    r->h = fe_tighten(fe_sub(ZZ, dTT));
    r->eg = fe_mul(r->e, r->g);
    r->fh = fe_mul(r->f, r->h);
    r->efgh = fe_mul(r->eg, r->fh);
    r->before = fe_zero();
}

FIELD fe ristretto_encode_doubled(const doubled *q, fe inverse) {
    fe inverse_fh = fe_mul(q->eg, inverse), inverse_eg = fe_mul(q->fh, inverse);
    mask rotate = fe_is_negative(fe_mul(q->eg, inverse_fh)); /* xy < 0: add a point of order 4 */
    fe e = fe_select(rotate, q->g, q->e);
    fe g = fe_select(rotate, fe_negate(q->e), q->g);
    fe h = fe_select(rotate, fe_mul(q->f, fe_constant(SQRT_M1)), q->h);
    fe magic = fe_select(rotate, fe_constant(SQRT_M1), fe_constant(INVSQRT_A_MINUS_D));
    g = fe_select(fe_is_negative(fe_mul(fe_mul(h, e), inverse_fh)), fe_negate(g), g); /* x < 0 */
    return fe_absolute(fe_mul(fe_sub(h, g), fe_mul(magic, fe_mul(g, inverse_eg))));
}

/* Replaces each efgh by its inverse, or 0 by 0: one inversion for all, lane by lane. */
static void doubled_invert(doubled *q, size_t count) {
    fe product = fe_constant(ONE);
    for (size_t i = 0; i < count; i++) {
        q[i].before = product;
        product = fe_mul(product, fe_select(fe_is_zero(q[i].efgh), fe_constant(ONE), q[i].efgh));
    }
    fe inverse = product;
    fe_invert(&inverse);
    for (size_t i = count; i-- > 0;) {
        mask zero = fe_is_zero(q[i].efgh);
        fe here = fe_select(zero, fe_zero(), fe_mul(inverse, q[i].before));
        inverse = fe_mul(inverse, fe_select(zero, fe_constant(ONE), q[i].efgh));
        q[i].efgh = here;
    }
}

/* Hashing to the group */

/* MAP of RFC 9496, section 4.3.4, of `count` <= WIDE field elements. */
static void ristretto_map(point *p, const fe *t, int count) {
    const fe one = fe_constant(ONE), d = fe_constant(D);
    fe r[WIDE], u[WIDE], v[WIDE], root[WIDE];
    mask was_square[WIDE];
    for (int j = 0; j < count; j++) {
        r[j] = fe_mul(fe_square(t[j]), fe_constant(SQRT_M1));
        u[j] = fe_mul(fe_add(r[j], one), fe_constant(ONE_MINUS_D_SQ));
        v[j] = fe_mul(fe_negate(fe_add(fe_mul(r[j], d), one)), fe_add(r[j], d)); /* (-1 - r D)(r + D) */
    }
    fe_sqrt_ratio(was_square, root, u, v, count);
    for (int j = 0; j < count; j++) {
        fe other = fe_mul(root[j], t[j]);
        other = fe_select(fe_is_negative(other), other, fe_negate(other)); /* s' = -|s t| */
        fe s = fe_tighten(fe_select(was_square[j], root[j], other));
        fe c = fe_select(was_square[j], fe_negate(one), r[j]);
        fe N = fe_sub(fe_mul(fe_mul(c, fe_sub(r[j], one)), fe_constant(D_MINUS_ONE_SQ)), v[j]);
        fe sv = fe_mul(s, v[j]), ss = fe_square(s);
        fe w0 = fe_add(sv, sv), w1 = fe_mul(N, fe_constant(SQRT_AD_MINUS_ONE));
        fe w2 = fe_sub(one, ss), w3 = fe_add(one, ss);
        p[j] = (point){fe_mul(w0, w3), fe_mul(w2, w1), fe_mul(w1, w3), fe_mul(w0, w2)};
    }
}

#endif

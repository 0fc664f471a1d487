/* SHA-512 (FIPS 180-4) of LANES messages side by side. Blocks that all messages of a batch begin with are hashed once. */
#ifndef VESICA_SHA512_H
#define VESICA_SHA512_H

#ifndef ROTATE_RIGHT
#define ROTATE_RIGHT(x, n) ((x) >> (n) | (x) << (64 - (n)))
#endif

typedef struct { lanes h[8]; } sha512_state;

/* One block of each lane, 128 bytes, `stride` apart. */
static void sha512_block(sha512_state *state, const uint8_t *blocks, size_t stride) {
    uint64_t words[16][LANES];
    lanes w[16];
    for (size_t lane = 0; lane < LANES; lane++)
        for (size_t t = 0; t < 16; t++) {
            uint64_t word;
            memcpy(&word, blocks + lane * stride + 8 * t, 8);
            words[t][lane] = __builtin_bswap64(word);
        }
    memcpy(w, words, sizeof w);
    lanes a = state->h[0], b = state->h[1], c = state->h[2], d = state->h[3];
    lanes e = state->h[4], f = state->h[5], g = state->h[6], h = state->h[7];
    for (int t = 0; t < 80; t += 16)
        for (int i = 0; i < 16; i++) {
            lanes t1 = h + (ROTATE_RIGHT(e, 14) ^ ROTATE_RIGHT(e, 18) ^ ROTATE_RIGHT(e, 41)) + ((e & f) ^ (~e & g)) +
                       lanes_all(SHA512_K[t + i]) + w[i];
            lanes t2 = (ROTATE_RIGHT(a, 28) ^ ROTATE_RIGHT(a, 34) ^ ROTATE_RIGHT(a, 39)) + ((a & b) ^ (a & c) ^ (b & c));
            h = g, g = f, f = e, e = d + t1;
            d = c, c = b, b = a, a = t1 + t2;
            lanes w1 = w[(i + 1) & 15], w14 = w[(i + 14) & 15]; /* the word of 16 rounds later */
            w[i] += (ROTATE_RIGHT(w1, 1) ^ ROTATE_RIGHT(w1, 8) ^ w1 >> 7) + w[(i + 9) & 15] +
                    (ROTATE_RIGHT(w14, 19) ^ ROTATE_RIGHT(w14, 61) ^ w14 >> 6);
        }
    state->h[0] += a, state->h[1] += b, state->h[2] += c, state->h[3] += d;
    state->h[4] += e, state->h[5] += f, state->h[6] += g, state->h[7] += h;
}

static int64_t batch_sha512(uint8_t *digests, size_t size, size_t n, const struct part *parts, size_t count) {
    size_t shared = 0, common = 0, longest = 0; /* leading shared parts, their bytes; an upper bound of what follows */
    while (shared < count && parts[shared].stride == 0) common += parts[shared++].width;
    for (size_t i = shared; i < count; i++) longest += parts[i].width;
    const size_t hashed = common / 128 * 128, rest = common - hashed;
    const size_t room = (rest + longest + 17 + 127) / 128 * 128; /* 0x80, and the length in 16 bytes */
    uint8_t *const head = malloc(common + 1), *const buffer = malloc(LANES * room);
    if (!head || !buffer) {
        free(head);
        free(buffer);
        return NO_MEMORY;
    }
    for (size_t i = 0, at = 0; i < shared; at += parts[i++].width) memcpy(head + at, parts[i].bytes, parts[i].width);
    sha512_state start;
    for (int i = 0; i < 8; i++) start.h[i] = lanes_all(SHA512_START[i]);
    for (size_t at = 0; at < hashed; at += 128) sha512_block(&start, head + at, 0);

    for (size_t base = 0; base < n; base += LANES) {
        const size_t rows = n - base < LANES ? n - base : LANES;
        size_t blocks[LANES] = {0}, most = 0;
        for (size_t lane = 0; lane < rows; lane++) {
            uint8_t *const begin = buffer + lane * room, *end = begin;
            memcpy(end, head + hashed, rest);
            end += rest;
            for (size_t i = shared; i < count; i++) {
                const size_t row = base + lane, width = parts[i].lengths ? parts[i].lengths[row] : parts[i].width;
                memcpy(end, parts[i].bytes + row * parts[i].stride, width);
                end += width;
            }
            const uint64_t bits = 8 * (uint64_t)(hashed + (size_t)(end - begin));
            blocks[lane] = ((size_t)(end - begin) + 17 + 127) / 128;
            if (blocks[lane] > most) most = blocks[lane];
            *end++ = 0x80;
            memset(end, 0, (size_t)(begin + 128 * blocks[lane] - end));
            for (size_t i = 0; i < 8; i++) begin[128 * blocks[lane] - 1 - i] = (uint8_t)(bits >> 8 * i);
        }
        sha512_state state = start;
        for (size_t block = 0; block < most; block++) {
            sha512_state next = state;
            unsigned unfinished = 0; /* the lanes whose message has this block */
            for (size_t lane = 0; lane < LANES; lane++) {
                if (block < blocks[lane]) unfinished |= 1u << lane;
                else memset(buffer + lane * room + 128 * block, 0, 128); /* read, but not used */
            }
            sha512_block(&next, buffer + 128 * block, room);
            for (int i = 0; i < 8; i++) state.h[i] = lanes_select(mask_from_bits(unfinished), next.h[i], state.h[i]);
        }
        uint64_t words[8][LANES];
        memcpy(words, state.h, sizeof words);
        for (size_t lane = 0; lane < rows; lane++) {
            uint64_t digest[8];
            for (int i = 0; i < 8; i++) digest[i] = __builtin_bswap64(words[i][lane]);
            memcpy(digests + (base + lane) * size, digest, size);
        }
    }
    free(head);
    free(buffer);
    return -1;
}

#endif

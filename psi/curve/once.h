/* Reading what another thread may change meanwhile: one load, and what is checked is what is used. */
#ifndef VESICA_ONCE_H
#define VESICA_ONCE_H

/* A 64-bit number at any address. The compiler cannot load it a second time, for it does not know what the empty
   instruction made of it. */
static inline uint64_t read_once(const void *from) {
    uint64_t number;
    memcpy(&number, from, sizeof number);
    __asm__ __volatile__("" : "+r"(number));
    return number;
}

#endif

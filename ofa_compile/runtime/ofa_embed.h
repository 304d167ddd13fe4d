/* The bytes of a file as an array, without a detour through C's syntax. */
#ifndef OFA_EMBED_H
#define OFA_EMBED_H

#ifdef __wasm__
#define OFA_EMBED_BEGIN(symbol) \
    ".section .rodata." #symbol ",\"\",@\n.type " #symbol ",@object\n"
#define OFA_EMBED_END(symbol) ".size " #symbol ", . - " #symbol "\n"
#else
#define OFA_EMBED_BEGIN(symbol) ".section .rodata,\"a\",%progbits\n"
#define OFA_EMBED_END(symbol) ".previous\n"
#endif

/* `alignment`, a power of two, is a string; `file` is looked for in the current folder. */
#define OFA_EMBED(symbol, file, alignment)                                      \
    __asm__(OFA_EMBED_BEGIN(symbol) ".balign " alignment "\n"                   \
            ".globl " #symbol "\n.hidden " #symbol "\n" #symbol ":\n"           \
            ".incbin \"" file "\"\n" OFA_EMBED_END(symbol))

#endif

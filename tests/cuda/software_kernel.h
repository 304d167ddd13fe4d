/* Included behind a kernel's text, which defined OFA_KERNEL as its name: what the driver finds. */
template <int...>
struct Places {};

template <class... Parameters>
constexpr unsigned count(void (*)(Parameters...)) {
    return sizeof...(Parameters);
}

/* A GPU loads a vector in one instruction, from an address that is a multiple of its size. */
template <class... Elements>
struct Alignments {
    static constexpr size_t values[] = {alignof(Elements)...};
};

template <class... Elements>
constexpr const size_t *alignments(void (*)(Elements *...)) {
    return Alignments<Elements...>::values;
}

template <class... Parameters, int... I>
static void call_at(void (*kernel)(Parameters...), void **values, Places<I...>) {
    kernel(*static_cast<Parameters *>(values[I])...);
}

template <class... Parameters>
static void call_with(void (*kernel)(Parameters...), void **values) {
    call_at(kernel, values, Places<__integer_pack(sizeof...(Parameters))...>());
}

static void call(void **values) { call_with(OFA_KERNEL, values); }

#define OFA_TEXT_OF(name) #name
#define OFA_TEXT(name) OFA_TEXT_OF(name)

extern "C" const SoftwareKernel ofa_software_kernel = {
    OFA_TEXT(OFA_KERNEL), count(OFA_KERNEL), alignments(OFA_KERNEL),
    OFA_MOST_THREADS,     OFA_WAITS,         &place,
    call};

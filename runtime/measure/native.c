/* native.c - frame pointers, the list of what is loaded, and symbol tables. */
#include "measure/native.h"
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

enum { OTHER, OURS, VM };
typedef struct module {
    uintptr_t low, high; /* its code */
    int kind;
    char name[48];
} module;
enum { MODULES = 128 };
typedef struct map {
    int count;
    unsigned long long version; /* of the loader's list */
    module of[MODULES];
} map;

static map maps[2], *volatile known = &maps[0]; /* a handler may interrupt whoever makes the next one */
static uintptr_t stack_low, stack_high, base;

/* What is loaded ---------------------------------------------------------------------------------------------------- */

static int kind_of(const char *name) {
    if (!*name) return OURS;
    return strstr(name, "libluajit") ? VM : OTHER;
}

static void add(map *m, const struct dl_phdr_info *info, const ElfW(Phdr) * segment) {
    if (m->count == MODULES || segment->p_type != PT_LOAD || !(segment->p_flags & PF_X)) return;
    module *to = &m->of[m->count++];
    const char *slash = strrchr(info->dlpi_name, '/');
    to->low = info->dlpi_addr + segment->p_vaddr;
    to->high = to->low + segment->p_memsz;
    to->kind = kind_of(info->dlpi_name);
    snprintf(to->name, sizeof to->name, "%s", to->kind == OURS ? "mxrun" : slash ? slash + 1 : info->dlpi_name);
}

static int on_module(struct dl_phdr_info *info, size_t size, void *arg) {
    map *m = arg;
    (void)size;
    if (!m->count) {
        unsigned long long version = info->dlpi_adds + info->dlpi_subs;
        if (version == known->version) return 1;
        m->version = version;
        base = info->dlpi_addr; /* the program itself is the first */
    }
    for (int i = 0; i < info->dlpi_phnum; i++) add(m, info, &info->dlpi_phdr[i]);
    return 0;
}

static void find_stack(void) {
    pthread_attr_t attributes;
    void *low;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attributes)) return;
    if (!pthread_attr_getstack(&attributes, &low, &size)) {
        stack_low = (uintptr_t)low;
        stack_high = stack_low + size;
    }
    pthread_attr_destroy(&attributes);
}

void mx_native_look(void) {
    map *next = known == &maps[0] ? &maps[1] : &maps[0];
    if (!stack_high) find_stack();
    next->count = 0;
    if (!dl_iterate_phdr(on_module, next)) known = next;
}

static const module *module_of(const map *m, uintptr_t pc) {
    for (int i = 0; i < m->count; i++)
        if (pc >= m->of[i].low && pc < m->of[i].high) return &m->of[i];
    return NULL;
}

/* Walking ----------------------------------------------------------------------------------------------------------- */

static int is_ours(const map *m, uintptr_t pc) {
    const module *in = module_of(m, pc);
    return in && in->kind == OURS;
}

/* A word of the stack; whatever address it is: 0 when it is none of it. */
__attribute__((no_sanitize("address", "undefined"))) static uintptr_t word(uintptr_t at) {
    if (at % sizeof(uintptr_t) || at < stack_low || at > stack_high - sizeof(uintptr_t)) return 0;
    return *(const uintptr_t *)at;
}

static int walk(const map *m, uintptr_t frame, uintptr_t lowest, uintptr_t *to, int n) {
    while (n < MX_NATIVE_DEPTH && frame >= lowest) {
        uintptr_t back = word(frame + sizeof frame);
        if (!back || !is_ours(m, back - 1)) break;
        to[n++] = back - 1; /* of the call, not of what follows it */
        lowest = frame + 2 * sizeof frame;
        frame = word(frame);
    }
    return n;
}

int mx_native_walk(const void *context, uintptr_t *to) {
    const map *m = known;
    if (!context) {
        uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
        return walk(m, frame, frame, to, 0);
    }
    const greg_t *r = ((const ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t pc = (uintptr_t)r[REG_RIP], frame = (uintptr_t)r[REG_RBP], top = (uintptr_t)r[REG_RSP];
    const module *in = module_of(m, pc);
    if (!in) return 0;
    int n = 0;
    to[n++] = pc;
    if (in->kind == VM) return n;
    if (in->kind == OTHER) { /* a function that has not pushed anything was called by what lies on top */
        uintptr_t back = word(top);
        if (back && is_ours(m, back - 1)) to[n++] = back - 1;
    }
    return walk(m, frame, top, to, n);
}

/* Names ------------------------------------------------------------------------------------------------------------- */

typedef struct symbol {
    uintptr_t at;
    size_t size;
    const char *name; /* in the mapped file, which stays */
} symbol;
static symbol *symbols;
static size_t symbol_count;

static int by_address(const void *a, const void *b) {
    const symbol *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static int fits(size_t size, size_t at, size_t n) { return at <= size && n <= size - at; }

static void take_symbols(const char *file, size_t size, const ElfW(Shdr) * table, const ElfW(Shdr) * names) {
    if (!fits(size, table->sh_offset, table->sh_size) || !fits(size, names->sh_offset, names->sh_size) || !names->sh_size) return;
    if (file[names->sh_offset + names->sh_size - 1]) return;
    const ElfW(Sym) *from = (const void *)(file + table->sh_offset);
    size_t n = table->sh_size / sizeof *from;
    free(symbols);
    symbols = mx_zalloc((n + 1) * sizeof *symbols);
    symbol_count = 0;
    for (size_t i = 0; i < n; i++) {
        if (ELF64_ST_TYPE(from[i].st_info) != STT_FUNC || !from[i].st_size || from[i].st_name >= names->sh_size) continue;
        symbols[symbol_count++] = (symbol){from[i].st_value, from[i].st_size, file + names->sh_offset + from[i].st_name};
    }
    qsort(symbols, symbol_count, sizeof *symbols, by_address);
}

/* Of the whole table where the program has it, else of what it exports. */
static void read_symbols(const char *file, size_t size) {
    const ElfW(Ehdr) *head = (const void *)file;
    if (size < sizeof *head || memcmp(head->e_ident, ELFMAG, SELFMAG)) return;
    if (!fits(size, head->e_shoff, (size_t)head->e_shnum * sizeof(ElfW(Shdr)))) return;
    const ElfW(Shdr) *section = (const void *)(file + head->e_shoff);
    for (int kind = SHT_DYNSYM, pass = 0; pass < 2; pass++, kind = SHT_SYMTAB)
        for (int i = 0; i < head->e_shnum; i++)
            if (section[i].sh_type == (ElfW(Word))kind && section[i].sh_link < head->e_shnum)
                take_symbols(file, size, &section[i], &section[section[i].sh_link]);
}

static void load_symbols(void) {
    struct stat about;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && !fstat(fd, &about)) {
        void *file = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file != MAP_FAILED) read_symbols(file, (size_t)about.st_size);
    }
    if (fd >= 0) close(fd);
    if (!symbols) symbols = mx_zalloc(sizeof *symbols); /* asked for once */
}

static const char *own_name(uintptr_t pc) {
    if (!symbols) load_symbols();
    uintptr_t at = pc - base;
    size_t low = 0, high = symbol_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (symbols[middle].at <= at) low = middle + 1;
        else high = middle;
    }
    return low && at - symbols[low - 1].at < symbols[low - 1].size ? symbols[low - 1].name : NULL;
}

/* dladdr answers the nearest exported function below, however far. */
static const char *exported_name(uintptr_t pc) {
    Dl_info info;
    const ElfW(Sym) *found = NULL;
    if (!dladdr1((void *)pc, &info, (void **)&found, RTLD_DL_SYMENT) || !info.dli_sname || !found) return NULL;
    return pc - (uintptr_t)info.dli_saddr < found->st_size ? info.dli_sname : NULL;
}

/* dladdr looks through all that a library exports: what was asked for lately is kept. */
static struct {
    uintptr_t pc;
    char name[64];
} lately[256];

const char *mx_native_name(uintptr_t pc, const char **library) {
    const module *in = module_of(known, pc);
    if (!in || in->kind == VM) return NULL;
    *library = in->name;
    char *kept = lately[pc % 251].name;
    if (lately[pc % 251].pc == pc) return kept;
    const char *name = in->kind == OURS ? own_name(pc) : exported_name(pc);
    snprintf(kept, sizeof lately->name, name ? "%s" : "[%s]", name ? name : in->name);
    lately[pc % 251].pc = pc;
    return kept;
}

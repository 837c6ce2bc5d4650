/*
 * Pages that workers share with the process they were forked from, and share again after they have written to them.
 *
 * A forked process copies each page that it writes to, and keeps the copy for good, also where it has written what was
 * there before: Python counts references inside the objects themselves, so that most of the pages that a worker copies
 * end as they were, or as good as.
 *
 * pages_share, once before the forks: every private, writable region of memory becomes a private mapping of one file in
 * memory (memfd) that holds what was in it. pages_drop, in a forked process whenever that has nothing to do: each copied
 * page that is equal to the file's is given back (MADV_DONTNEED), which makes it the file's page again. Two things do
 * not count in that comparison, because their values are of no consequence:
 *
 *   reference counts of the objects that are shared. They are made so large that none of them ever becomes zero;
 *   counters in the inline caches of byte code (CPython 3.11, Include/internal/pycore_code.h), which say when to
 *   specialise an instruction next.
 *
 * All of it is for a process of one thread: nobody else writes while a page is compared and given back. From the first
 * page that is shared on nothing here allocates from the heap, and what is written to (the stack, the table) is not part
 * of what is shared. Returns are what was asked for, or -errno. Linux, and the CPython that its headers were of.
 */
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef SOURCE_SHA256
#define SOURCE_SHA256 "unknown"
#endif
/* What this was compiled from: tests compare it with the source. */
const char pages_source[] = "Source-SHA256: " SOURCE_SHA256;

#define PAGE ((size_t)4096)
#define MOST_REGIONS 4096
#define ENTRIES ((size_t)512) /* of pagemap, read at once */
#define CHUNK (ENTRIES * PAGE)
/* What is added to a reference count. Far more than a process counts up or down, far less than what overflows. */
#define IMMORTAL ((int64_t)1 << 40)
#define MOST_REFERENCES ((int64_t)1 << 39)
#define FIRST_WARMUP (-8) /* co_warmup of code that has never run; it is quickened when it comes to 0 */
#define PRESENT (1ULL << 63) /* Documentation/admin-guide/mm/pagemap.rst */
#define SWAPPED (1ULL << 62)
#define OF_A_FILE (1ULL << 61)

struct region {
    unsigned char *start;
    size_t length;
    size_t offset; /* in the file */
};

struct table {
    size_t count;
    dev_t device; /* of the file */
    ino_t inode;
    size_t length; /* of the file */
    const unsigned char *file; /* mapped for reading */
    unsigned char *ignored; /* a bit for each two bytes of the file */
    unsigned char *filled; /* a byte for each CHUNK of the file: whether it holds anything */
    struct region regions[MOST_REGIONS]; /* by address */
};

static struct table *shared; /* set before it is shared itself, and not written to again */

static int one_thread(void)
{
    char text[1024];
    int file = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    if (length <= 0)
        return 0;
    text[length] = 0;
    char *at = strrchr(text, ')'); /* the name before may hold blanks */
    for (int field = 2; at && field < 20; field++) /* man 5 proc_pid_stat: 20 is num_threads */
        at = strchr(at + 1, ' ');
    return at && strtol(at + 1, NULL, 10) == 1;
}

static int read_entries(int pagemap, const unsigned char *start, size_t pages, uint64_t *entries)
{
    size_t wanted = pages * sizeof *entries;
    off_t at = (off_t)((uintptr_t)start / PAGE * sizeof *entries);
    return pread(pagemap, entries, wanted, at) == (ssize_t)wanted ? 0 : -EIO;
}

static int write_all(int file, const unsigned char *from, size_t length, size_t offset)
{
    while (length > 0) {
        ssize_t written = pwrite(file, from, length, (off_t)offset);
        if (written < 0 && errno != EINTR)
            return -errno;
        if (written > 0) {
            from += written;
            offset += (size_t)written;
            length -= (size_t)written;
        }
    }
    return 0;
}

/* The word at *at, which ends with a blank; *at is put behind it. NULL at the end of the line. */
static char *word(char **at)
{
    while (**at == ' ')
        (*at)++;
    if (!**at)
        return NULL;
    char *start = *at;
    while (**at && **at != ' ')
        (*at)++;
    if (**at)
        *(*at)++ = 0;
    return start;
}

/*
 * Whether a line of /proc/self/smaps begins a region that can be shared: private, writable, not the stack, not what the
 * kernel maps, none of ours. *sparse tells that it is of no file.
 */
static int is_region(char *line, struct region *region, int *sparse)
{
    char *range = word(&line), *rights = word(&line), *offset = word(&line), *device = word(&line);
    char *inode = word(&line), *name = word(&line), *end;
    if (!inode || !offset || !device || strcmp(rights, "rw-p") != 0)
        return 0;
    region->start = (unsigned char *)strtoull(range, &end, 16);
    region->length = (size_t)(strtoull(end + 1, NULL, 16) - (uintptr_t)region->start);
    if (name && name[0] == '[' && strcmp(name, "[heap]") != 0 && strncmp(name, "[anon", 5) != 0)
        return 0;
    if (name && strncmp(name, "/dev/", 5) == 0)
        return 0;
    *sparse = inode[0] == '0' && !inode[1];
    unsigned char *table = (unsigned char *)shared;
    return !(table >= region->start && table < region->start + region->length);
}

/* Flags of a region that a mapping of a file would lose: wiped or not there in children, huge pages. */
static int is_special(const char *flags)
{
    return strstr(flags, " wf") || strstr(flags, " dc") || strstr(flags, " ht") || strstr(flags, " lo");
}

#define TEXT_ROOM ((size_t)8 << 20) /* address space, of which as much is used as is read */

/* The whole of a file of /proc, with a zero behind it; MAP_FAILED where that cannot be. To be unmapped. */
static char *read_text(const char *path)
{
    char *text = mmap(NULL, TEXT_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int file = text == MAP_FAILED ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    ssize_t part = file < 0 ? -1 : 1;
    while (part > 0 && length < TEXT_ROOM - 1) {
        part = read(file, text + length, TEXT_ROOM - 1 - length);
        if (part > 0)
            length += (size_t)part;
    }
    int error = errno;
    if (file >= 0)
        close(file);
    if (part != 0 && text != MAP_FAILED) {
        munmap(text, TEXT_ROOM);
        text = MAP_FAILED;
        errno = error;
    }
    return text;
}

/* Cuts the line at *at off and puts *at behind it; NULL at the end. */
static char *line_at(char **at)
{
    if (!**at)
        return NULL;
    char *line = *at, *end = strchr(line, '\n');
    *at = end ? end + 1 : line + strlen(line);
    if (end)
        *end = 0;
    return line;
}

/* Reads /proc/self/smaps into the table of regions; those that are sparse are marked in a list. */
static int find_regions(unsigned char *sparse)
{
    char *text = read_text("/proc/self/smaps");
    if (text == MAP_FAILED)
        return -errno;
    int error = 0, candidate = 0, is_sparse = 0;
    struct region found;
    char *at = text, *line;
    while (!error && (line = line_at(&at)))
        if (strncmp(line, "VmFlags:", 8) == 0) {
            if (candidate && !is_special(line) && (unsigned char *)text != found.start) {
                if (shared->count == MOST_REGIONS)
                    error = -E2BIG;
                else {
                    found.offset = shared->length;
                    shared->length += found.length;
                    sparse[shared->count] = (unsigned char)is_sparse;
                    shared->regions[shared->count++] = found;
                }
            }
            candidate = 0;
        } else if ((line[0] >= '0' && line[0] <= '9') || (line[0] >= 'a' && line[0] <= 'f'))
            candidate = is_region(line, &found, &is_sparse);
    munmap(text, TEXT_ROOM);
    return error;
}

/* Copies a region to the file: all of it, or the pages that were ever written to where the others are zero anyway. */
static int copy_region(int file, int pagemap, const struct region *region, int sparse)
{
    if (!sparse)
        return write_all(file, region->start, region->length, region->offset);
    uint64_t entries[ENTRIES];
    for (size_t page = 0; page < region->length / PAGE; page += ENTRIES) {
        size_t pages = region->length / PAGE - page;
        if (pages > ENTRIES)
            pages = ENTRIES;
        int error = read_entries(pagemap, region->start + page * PAGE, pages, entries);
        for (size_t i = 0; !error && i < pages; i++)
            if (entries[i] & (PRESENT | SWAPPED)) {
                size_t at = (page + i) * PAGE;
                error = write_all(file, region->start + at, PAGE, region->offset + at);
            }
        if (error)
            return error;
    }
    return 0;
}

/*
 * Replaces a region by a private mapping of the file. From the copy of its first page until then nothing may write to
 * it: what works here works on the stack, which is no such region.
 */
static int share_region(int file, int pagemap, const struct region *region, int sparse)
{
    int error = copy_region(file, pagemap, region, sparse);
    if (!error
        && mmap(region->start, region->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file,
                (off_t)region->offset) == MAP_FAILED)
        error = -errno;
    return error;
}

/* Reads a byte of each page that holds something, so that it is mapped here, and forked processes find it mapped. */
static void touch_region(int file, const struct region *region)
{
    off_t at = (off_t)region->offset, end = (off_t)(region->offset + region->length);
    while ((at = lseek(file, at, SEEK_DATA)) >= 0 && at < end) {
        off_t hole = lseek(file, at, SEEK_HOLE);
        for (; at < hole && at < end; at += (off_t)PAGE) {
            (void)*(volatile unsigned char *)(region->start + ((size_t)at - region->offset));
            shared->filled[(size_t)at / CHUNK] = 1;
        }
    }
}

/* Where `size` bytes at an address are in the file; the file's length where they are not shared. */
static size_t offset_of(uint64_t address, size_t size)
{
    size_t low = 0, high = shared->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        struct region *region = &shared->regions[middle];
        uint64_t start = (uintptr_t)region->start;
        if (address < start)
            high = middle;
        else if (address + size > start + region->length)
            low = middle + 1;
        else
            return region->offset + (address - start);
    }
    return shared->length;
}

static void ignore(uint64_t address, size_t size)
{
    size_t offset = offset_of(address, size);
    for (size_t at = offset / 2; offset < shared->length && at < (offset + size) / 2; at++)
        shared->ignored[at / 8] |= (unsigned char)(1u << (at % 8));
}

/*
 * All objects that can be reached, each once. In memory that is mapped for them, not private, so that it is no region.
 */
struct objects {
    PyObject **found;
    size_t count;
    PyObject **table; /* by hash, NULL where there is none */
    size_t capacity; /* of the table, a power of two; found has room for half of it */
    int error;
};

static void *map_own(size_t length)
{
    return mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static int map_objects(struct objects *objects, size_t capacity)
{
    size_t size = sizeof(PyObject *);
    void *found = map_own(capacity / 2 * size), *table = map_own(capacity * size);
    if (found == MAP_FAILED || table == MAP_FAILED)
        return -errno;
    *objects = (struct objects){.found = found, .table = table, .capacity = capacity};
    return 0;
}

static void unmap_objects(const struct objects *objects)
{
    munmap(objects->found, objects->capacity / 2 * sizeof(PyObject *));
    munmap(objects->table, objects->capacity * sizeof(PyObject *));
}

static void add(struct objects *objects, PyObject *object)
{
    size_t at = ((uintptr_t)object >> 4) * 0x9E3779B97F4A7C15ULL >> 20; /* Knuth's multiplicative hash */
    while (objects->table[at &= objects->capacity - 1]) {
        if (objects->table[at] == object)
            return;
        at++;
    }
    if (objects->count == objects->capacity / 2) {
        struct objects larger;
        objects->error = map_objects(&larger, objects->capacity * 2);
        if (objects->error)
            return;
        for (size_t i = 0; i < objects->count; i++)
            add(&larger, objects->found[i]);
        unmap_objects(objects);
        *objects = larger;
        add(objects, object);
        return;
    }
    objects->table[at] = object;
    objects->found[objects->count++] = object;
}

/* A visitproc: what an object refers to. */
static int visit(PyObject *object, void *objects)
{
    if (object)
        add(objects, object);
    return ((struct objects *)objects)->error;
}

/* What the collector of garbage does not look into. */
static void add_parts(struct objects *objects, const PyCodeObject *code)
{
    PyObject *parts[] = {
        code->co_consts, code->co_names, code->co_exceptiontable, code->co_localsplusnames, code->co_localspluskinds,
        code->co_filename, code->co_name, code->co_qualname, code->co_linetable, code->_co_code,
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        visit(parts[i], objects);
}

/* As the collector does with those that it tracks; tuples and dictionaries of what it does not need to track are not. */
static int may_be_traversed(PyObject *object)
{
    if (!PyObject_IS_GC(object) || !Py_TYPE(object)->tp_traverse)
        return 0;
    return PyObject_GC_IsTracked(object) || PyTuple_CheckExact(object) || PyDict_CheckExact(object);
}

/* Looks at the items of a list, and at all that can be reached from them but for frames: a call's own will be gone. */
static int find_objects(struct objects *objects, PyObject *roots)
{
    int error = map_objects(objects, 1 << 12);
    if (error)
        return error;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(roots); i++)
        add(objects, PyList_GET_ITEM(roots, i));
    for (size_t i = 0; i < objects->count && !objects->error; i++) {
        PyObject *object = objects->found[i];
        add(objects, (PyObject *)Py_TYPE(object));
        if (PyCode_Check(object))
            add_parts(objects, (PyCodeObject *)object);
        else if (!PyFrame_Check(object) && may_be_traversed(object))
            Py_TYPE(object)->tp_traverse(object, visit, objects);
    }
    return objects->error;
}

/* The counters of a code object: the first entries of its instructions' caches, once it has been quickened. */
static int ignore_counters(PyCodeObject *code, const unsigned char *cache_entries)
{
    int is_cached = code->_co_code != NULL;
    PyObject *instructions = PyCode_GetCode(code); /* as they were before; the code object keeps it */
    if (!instructions) {
        PyErr_Clear();
        return -ENOMEM;
    }
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(instructions);
    for (Py_ssize_t at = 0, length = PyBytes_GET_SIZE(instructions); at < length;) {
        unsigned char entries = cache_entries[bytes[at]];
        if (entries)
            ignore((uintptr_t)code->co_code_adaptive + (size_t)at + 2, 2);
        at += 2 + 2 * entries;
    }
    Py_DECREF(instructions);
    if (!is_cached)
        Py_CLEAR(code->_co_code);
    return 0;
}

/* Makes reference counts large, and has code that ran a few times stay as it is: it would count on in every worker. */
static int prepare(const struct objects *objects, const unsigned char *cache_entries)
{
    for (size_t i = 0; i < objects->count; i++) {
        PyObject *object = objects->found[i];
        if (PyCode_Check(object)) {
            PyCodeObject *code = (PyCodeObject *)object;
            int error = code->co_warmup == 0 ? ignore_counters(code, cache_entries) : 0;
            if (error)
                return error;
            if (code->co_warmup > FIRST_WARMUP && code->co_warmup < 0
                && offset_of((uintptr_t)&code->co_warmup, 2) != shared->length)
                code->co_warmup = 0;
        }
    }
    for (size_t i = 0; i < objects->count; i++) {
        PyObject *object = objects->found[i];
        if (object->ob_refcnt <= MOST_REFERENCES && offset_of((uintptr_t)object, sizeof *object) != shared->length) {
            object->ob_refcnt += IMMORTAL;
            ignore((uintptr_t)object, sizeof object->ob_refcnt);
        }
    }
    return 0;
}

static long share(PyObject *roots, const unsigned char *cache_entries)
{
    static unsigned char sparse[MOST_REGIONS]; /* of no file; (it is shared itself, and still there) */
    struct stat about;
    struct objects objects = {0};
    int file = memfd_create("mme-pages", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    long error = file < 0 || pagemap < 0 ? -errno : find_regions(sparse);
    if (!error)
        error = find_objects(&objects, roots);
    if (!error && (ftruncate(file, (off_t)shared->length) < 0 || fstat(file, &about) < 0))
        error = -errno;
    if (!error) {
        size_t chunks = shared->length / CHUNK + 1, bits = shared->length / 16 + 1;
        int ours = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        shared->device = about.st_dev;
        shared->inode = about.st_ino;
        shared->file = mmap(NULL, shared->length, PROT_READ, MAP_PRIVATE, file, 0);
        shared->ignored = mmap(NULL, bits + chunks, PROT_READ | PROT_WRITE, ours, -1, 0);
        if (shared->file == MAP_FAILED || shared->ignored == MAP_FAILED)
            error = -errno;
        shared->filled = shared->ignored + bits;
    }
    if (!error)
        error = prepare(&objects, cache_entries);
    unmap_objects(&objects);
    for (size_t i = 0; !error && i < shared->count; i++)
        error = share_region(file, pagemap, &shared->regions[i], sparse[i]);
    for (size_t i = 0; !error && i < shared->count; i++)
        touch_region(file, &shared->regions[i]);
    if (!error)
        fcntl(file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    else if (shared->file && shared->file != MAP_FAILED)
        munmap((void *)(uintptr_t)shared->file, shared->length);
    if (file >= 0)
        close(file);
    if (pagemap >= 0)
        close(pagemap);
    return error ? error : (long)shared->length;
}

/*
 * Shares all that can be; returns how many bytes. To be called once, in a process of one thread. The roots are a list of
 * objects from which all others can be reached; cache_entries says how many 2-byte entries follow each instruction.
 */
long pages_share(PyObject *roots, const unsigned char *cache_entries)
{
    if (Py_Version >> 16 != PY_VERSION_HEX >> 16)
        return -ENOTSUP;
    if (shared)
        return -EALREADY;
    if (!one_thread())
        return -EBUSY;
    if (sysconf(_SC_PAGESIZE) != (long)PAGE)
        return -ENOTSUP;
    void *table = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED)
        return -errno;
    shared = table;
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    long result = share(roots, cache_entries);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (result < 0) {
        shared = NULL;
        munmap(table, sizeof *shared);
    }
    return result;
}

/* Whether a page is the file's, but for what does not count. */
static int is_same(const unsigned char *page, size_t offset)
{
    const unsigned char *original = shared->file + offset;
    if (memcmp(page, original, PAGE) == 0)
        return 1;
    for (size_t at = 0; at < PAGE; at += 8) {
        uint64_t ours, theirs;
        memcpy(&ours, page + at, 8);
        memcpy(&theirs, original + at, 8);
        uint64_t different = ours ^ theirs;
        if (!different)
            continue;
        unsigned bits = shared->ignored[(offset + at) / 16] >> ((offset + at) / 2 % 8) & 15;
        for (unsigned unit = 0; unit < 4; unit++)
            if (bits & (1u << unit))
                different &= ~(0xffffULL << (16 * unit));
        if (different)
            return 0;
    }
    return 1;
}

/* Gives back the copied pages of one mapping of the file; returns how many bytes. */
static long drop_mapping(int pagemap, unsigned char *start, size_t length, size_t offset)
{
    uint64_t entries[ENTRIES];
    long dropped = 0;
    for (size_t done = 0, size; done < length; done += size) {
        size = CHUNK - (offset + done) % CHUNK;
        if (size > length - done)
            size = length - done;
        size_t pages = size / PAGE, run = 0;
        if (!shared->filled[(offset + done) / CHUNK] || read_entries(pagemap, start + done, pages, entries) < 0)
            continue;
        for (size_t i = 0; i <= pages; i++) {
            size_t at = done + i * PAGE;
            if (i < pages && (entries[i] & PRESENT) && !(entries[i] & OF_A_FILE) && is_same(start + at, offset + at)) {
                run++;
                continue;
            }
            if (run && madvise(start + at - run * PAGE, run * PAGE, MADV_DONTNEED) == 0)
                dropped += (long)(run * PAGE);
            run = 0;
        }
    }
    return dropped;
}

/*
 * Gives back every copied page that is the file's; returns how many bytes. Does nothing where there are more threads.
 * Which memory is still the file's is read anew: what was unmapped may be somebody else's by now.
 */
long pages_drop(void)
{
    if (!shared || !one_thread())
        return 0;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    char *text = pagemap < 0 ? MAP_FAILED : read_text("/proc/self/maps");
    if (text == MAP_FAILED) {
        int error = errno;
        if (pagemap >= 0)
            close(pagemap);
        return -error;
    }
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    long dropped = 0;
    char *at = text, *line, *end;
    while ((line = line_at(&at))) {
        char *range = word(&line), *rights = word(&line), *offset = word(&line), *device = word(&line);
        char *inode = word(&line);
        if (!inode || strcmp(rights, "rw-p") != 0 || strtoull(inode, NULL, 10) != shared->inode)
            continue;
        unsigned number = (unsigned)strtoul(device, &end, 16);
        if (makedev(number, (unsigned)strtoul(end + 1, NULL, 16)) != shared->device)
            continue;
        unsigned char *start = (unsigned char *)strtoull(range, &end, 16);
        size_t length = (size_t)(strtoull(end + 1, NULL, 16) - (uintptr_t)start);
        dropped += drop_mapping(pagemap, start, length, strtoull(offset, NULL, 16));
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    munmap(text, TEXT_ROOM);
    close(pagemap);
    return dropped;
}

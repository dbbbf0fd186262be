#include <Zydis/Zydis.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* What Swift needs of Zydis, in fixed-width fields: Zydis's own structures hold unions, bit
 * masks made of casts and an operand array, which Swift imports badly or not at all, and their
 * layout differs between Zydis 4.0 and 4.1. */

/* The longest text Zydis writes for one instruction, with its final zero. */
enum { CZYDIS_TEXT_CAPACITY = 96 };

/* Why a decode gave nothing. */
enum {
    CZYDIS_OK = 0,
    CZYDIS_TRUNCATED = 1, /* the bytes end before the instruction does */
    CZYDIS_BAD = 2        /* no instruction starts like this */
};

typedef struct {
    uint16_t mnemonic;          /* ZydisMnemonic */
    uint8_t length;             /* in bytes, 1-15 */
    uint8_t opcode;
    uint8_t opcode_map;         /* ZydisOpcodeMap; 0 is the one-byte map */
    uint8_t operand_width;      /* in bits */
    uint8_t address_width;      /* in bits */
    uint8_t has_rep;            /* a REP, REPE or REPNE prefix that takes effect */
    uint8_t prefix_count;       /* legacy and REX prefixes */
    uint8_t writes_memory;      /* an operand in memory is written (only with operands) */
    uint8_t memory_width_bytes; /* the width of that operand, 0 where none is written */
    uint8_t has_target;
    uint8_t second_immediate;   /* ENTER's level */
    uint64_t target;            /* of a direct branch, or the address of a RIP-relative operand */
    uint64_t immediate;         /* the first immediate as encoded */
} czydis_instruction;

static inline ZydisStackWidth czydis_stack_width(unsigned bits) {
    return bits == 64   ? ZYDIS_STACK_WIDTH_64
           : bits == 32 ? ZYDIS_STACK_WIDTH_32
                        : ZYDIS_STACK_WIDTH_16;
}

static inline ZydisMachineMode czydis_machine_mode(unsigned bits, int is_real) {
    if (bits == 64) return ZYDIS_MACHINE_MODE_LONG_64;
    if (bits == 32) return ZYDIS_MACHINE_MODE_LEGACY_32;
    return is_real ? ZYDIS_MACHINE_MODE_REAL_16 : ZYDIS_MACHINE_MODE_LEGACY_16;
}

static inline int czydis_init(ZydisDecoder *decoder, unsigned bits, int is_real) {
    return ZYAN_SUCCESS(ZydisDecoderInit(
        decoder, czydis_machine_mode(bits, is_real), czydis_stack_width(bits)));
}

static inline int czydis_failure(ZyanStatus status) {
    return status == ZYDIS_STATUS_NO_MORE_DATA ? CZYDIS_TRUNCATED : CZYDIS_BAD;
}

static inline void czydis_fill(czydis_instruction *out, const ZydisDecodedInstruction *from) {
    memset(out, 0, sizeof *out);
    out->mnemonic = (uint16_t)from->mnemonic;
    out->length = from->length;
    out->opcode = from->opcode;
    out->opcode_map = (uint8_t)from->opcode_map;
    out->operand_width = from->operand_width;
    out->address_width = from->address_width;
    out->has_rep = (from->attributes
                    & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
                   != 0;
    out->prefix_count = from->raw.prefix_count;
    out->immediate = from->raw.imm[0].value.u;
    out->second_immediate = (uint8_t)from->raw.imm[1].value.u;
}

/* Decodes one instruction without its operands: the quick way, for scanning. */
static inline int czydis_decode(
    unsigned bits, int is_real, const void *bytes, size_t count, czydis_instruction *out
) {
    ZydisDecoder decoder;
    ZydisDecodedInstruction instruction;
    if (!czydis_init(&decoder, bits, is_real)) return CZYDIS_BAD;
    ZyanStatus status =
        ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, count, &instruction);
    if (!ZYAN_SUCCESS(status)) return czydis_failure(status);
    czydis_fill(out, &instruction);
    return CZYDIS_OK;
}

/* Decodes one instruction with its operands; text (CZYDIS_TEXT_CAPACITY bytes, or NULL) receives
 * it as text, in AT&T syntax where att is not 0. */
static inline int czydis_decode_full(
    unsigned bits, int is_real, int att, uint64_t address, const void *bytes, size_t count,
    czydis_instruction *out, char *text
) {
    ZydisDecoder decoder;
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!czydis_init(&decoder, bits, is_real)) return CZYDIS_BAD;
    ZyanStatus status = ZydisDecoderDecodeFull(&decoder, bytes, count, &instruction, operands);
    if (!ZYAN_SUCCESS(status)) return czydis_failure(status);
    czydis_fill(out, &instruction);
    for (unsigned i = 0; i < instruction.operand_count; i++) {
        const ZydisDecodedOperand *operand = &operands[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY
            && (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0
            && operand->mem.type != ZYDIS_MEMOP_TYPE_AGEN) {
            out->writes_memory = 1;
            out->memory_width_bytes = (uint8_t)(operand->size / 8);
        }
        ZyanU64 target;
        int relative_branch =
            operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && operand->imm.is_relative;
        int relative_memory = operand->type == ZYDIS_OPERAND_TYPE_MEMORY
                              && operand->mem.base == ZYDIS_REGISTER_RIP;
        if (!out->has_target && (relative_branch || relative_memory)
            && ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&instruction, operand, address, &target))) {
            out->has_target = 1;
            out->target = target;
        }
    }
    if (text != NULL) {
        ZydisFormatter formatter;
        text[0] = 0;
        if (!ZYAN_SUCCESS(ZydisFormatterInit(
                &formatter, att ? ZYDIS_FORMATTER_STYLE_ATT : ZYDIS_FORMATTER_STYLE_INTEL)))
            return CZYDIS_BAD;
        /* Padded addresses and capitals in numbers make listings wide and hard to search. */
        ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
        ZydisFormatterSetProperty(
            &formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE, ZYDIS_PADDING_DISABLED);
        ZydisFormatterSetProperty(
            &formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_RELATIVE, ZYDIS_PADDING_DISABLED);
        ZydisFormatterSetProperty(
            &formatter, ZYDIS_FORMATTER_PROP_DISP_PADDING, ZYDIS_PADDING_DISABLED);
        ZydisFormatterSetProperty(
            &formatter, ZYDIS_FORMATTER_PROP_IMM_PADDING, ZYDIS_PADDING_DISABLED);
        if (!ZYAN_SUCCESS(ZydisFormatterFormatInstruction(
                &formatter, &instruction, operands, instruction.operand_count_visible, text,
                CZYDIS_TEXT_CAPACITY, address, NULL)))
            text[0] = 0;
    }
    return CZYDIS_OK;
}

/* One operand that the instruction names itself. */
typedef struct {
    uint8_t kind;         /* CZYDIS_OPERAND_* */
    uint8_t reg;          /* a general-purpose register's number (0 RAX, 1 RCX, ... 15 R15) */
    uint8_t is_high_byte; /* AH, CH, DH or BH; reg is that of the whole register */
    uint8_t segment;      /* 0 ES, 1 CS, 2 SS, 3 DS, 4 FS, 5 GS */
    uint8_t base;         /* as reg; CZYDIS_NO_REGISTER, or CZYDIS_RIP */
    uint8_t index;        /* as reg; or CZYDIS_NO_REGISTER */
    uint8_t scale;        /* 1, 2, 4 or 8 */
    uint16_t width;       /* in bits */
    int64_t displacement;
    uint64_t immediate;
} czydis_operand;

enum {
    CZYDIS_OPERAND_OTHER = 0, /* a register of another class, a pointer */
    CZYDIS_OPERAND_REGISTER = 1,
    CZYDIS_OPERAND_MEMORY = 2,
    CZYDIS_OPERAND_IMMEDIATE = 3,

    CZYDIS_NO_REGISTER = 0xFF,
    CZYDIS_RIP = 0xFE,

    CZYDIS_OPERAND_CAPACITY = 5 /* as many as an instruction can name */
};

/* The number of a general-purpose register of any width, or CZYDIS_NO_REGISTER. */
static inline uint8_t czydis_register(ZydisRegister reg) {
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    if (ZydisRegisterGetClass(whole) != ZYDIS_REGCLASS_GPR64) return CZYDIS_NO_REGISTER;
    return (uint8_t)ZydisRegisterGetId(whole);
}

/* The registers of which an address is made up; 0 where one is none that can be told here. */
static inline int czydis_address_registers(
    const ZydisDecodedOperand *from, uint8_t *base, uint8_t *index
) {
    *base = *index = CZYDIS_NO_REGISTER;
    if (from->mem.base == ZYDIS_REGISTER_RIP || from->mem.base == ZYDIS_REGISTER_EIP) {
        *base = CZYDIS_RIP;
    } else if (from->mem.base != ZYDIS_REGISTER_NONE) {
        *base = czydis_register(from->mem.base);
        if (*base == CZYDIS_NO_REGISTER) return 0;
    }
    if (from->mem.index == ZYDIS_REGISTER_NONE) return 1;
    *index = czydis_register(from->mem.index);
    return *index != CZYDIS_NO_REGISTER;
}

/* Decodes one instruction and the operands that it names; their number, or -1 if there is none or
 * it addresses memory in a way that cannot be told here. */
static inline int czydis_decode_operands(
    unsigned bits, int is_real, const void *bytes, size_t count, czydis_instruction *out,
    czydis_operand operands[CZYDIS_OPERAND_CAPACITY]
) {
    ZydisDecoder decoder;
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand decoded[ZYDIS_MAX_OPERAND_COUNT];
    if (!czydis_init(&decoder, bits, is_real)
        || !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, count, &instruction, decoded))
        || instruction.operand_count_visible > CZYDIS_OPERAND_CAPACITY)
        return -1;
    czydis_fill(out, &instruction);
    for (unsigned i = 0; i < instruction.operand_count_visible; i++) {
        const ZydisDecodedOperand *from = &decoded[i];
        czydis_operand *to = &operands[i];
        memset(to, 0, sizeof *to);
        to->width = from->size;
        to->base = to->index = CZYDIS_NO_REGISTER;
        switch (from->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            to->reg = czydis_register(from->reg.value);
            if (to->reg == CZYDIS_NO_REGISTER) break;
            to->kind = CZYDIS_OPERAND_REGISTER;
            to->is_high_byte =
                from->reg.value >= ZYDIS_REGISTER_AH && from->reg.value <= ZYDIS_REGISTER_BH;
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            to->kind = CZYDIS_OPERAND_IMMEDIATE;
            to->immediate = from->imm.value.u;
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            if (from->mem.type != ZYDIS_MEMOP_TYPE_MEM) return -1;
            to->kind = CZYDIS_OPERAND_MEMORY;
            to->segment = (uint8_t)ZydisRegisterGetId(from->mem.segment);
            to->scale = from->mem.scale;
            to->displacement = from->mem.disp.value;
            if (!czydis_address_registers(from, &to->base, &to->index)) return -1;
            break;
        default: break;
        }
    }
    return instruction.operand_count_visible;
}

/* A piece of memory that an instruction reads or writes, whether it names it or not. */
typedef struct {
    uint8_t role;      /* CZYDIS_ROLE_* */
    uint8_t is_read;   /* also where it depends on something */
    uint8_t is_write;
    uint8_t segment;   /* the five as in czydis_operand */
    uint8_t base;
    uint8_t index;
    uint8_t scale;
    uint8_t bit_index; /* BT and its like: the register that counts bits from here, or none */
    uint16_t width;    /* in bytes */
    int64_t displacement;
} czydis_access;

enum {
    CZYDIS_ROLE_OPERAND = 0,
    CZYDIS_ROLE_PUSH = 1,   /* ends below the stack pointer */
    CZYDIS_ROLE_POP = 2,    /* from the stack pointer on */
    CZYDIS_ROLE_STRING = 3, /* RSI or RDI, which move */
    CZYDIS_ROLE_TABLE = 4,  /* XLAT: AL is added */

    CZYDIS_ACCESS_CAPACITY = 3 /* two named or implied, and the stack */
};

/* What names memory and does not touch it. */
static inline int czydis_only_names(const ZydisDecodedInstruction *instruction) {
    switch (instruction->mnemonic) {
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB:
    case ZYDIS_MNEMONIC_CLDEMOTE:
    case ZYDIS_MNEMONIC_INVLPG: return 1;
    default: break;
    }
    return instruction->meta.category == ZYDIS_CATEGORY_PREFETCH
           || instruction->meta.category == ZYDIS_CATEGORY_WIDENOP
           || instruction->meta.category == ZYDIS_CATEGORY_NOP;
}

/* Decodes one instruction and the memory that it touches; the number of pieces, or -1 if there is
 * none or it addresses memory in a way that cannot be told here. */
static inline int czydis_decode_accesses(
    unsigned bits, int is_real, const void *bytes, size_t count, czydis_instruction *out,
    czydis_access accesses[CZYDIS_ACCESS_CAPACITY]
) {
    ZydisDecoder decoder;
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand decoded[ZYDIS_MAX_OPERAND_COUNT];
    if (!czydis_init(&decoder, bits, is_real)
        || !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, count, &instruction, decoded)))
        return -1;
    czydis_fill(out, &instruction);
    if (czydis_only_names(&instruction)) return 0;
    int found = 0;
    for (unsigned i = 0; i < instruction.operand_count; i++) {
        const ZydisDecodedOperand *from = &decoded[i];
        if (from->type != ZYDIS_OPERAND_TYPE_MEMORY || from->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        if (found == CZYDIS_ACCESS_CAPACITY || from->mem.type != ZYDIS_MEMOP_TYPE_MEM) return -1;
        czydis_access *to = &accesses[found++];
        memset(to, 0, sizeof *to);
        to->is_read = (from->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
        to->is_write = (from->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
        to->segment = (uint8_t)ZydisRegisterGetId(from->mem.segment);
        to->bit_index = CZYDIS_NO_REGISTER;
        to->scale = from->mem.scale;
        to->width = (uint16_t)(from->size / 8);
        to->displacement = from->mem.disp.value;
        if (!czydis_address_registers(from, &to->base, &to->index)) return -1;
        if (from->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
            const int stack_pointer = 4, data = 7, source = 6;
            if (to->base == stack_pointer)
                to->role = to->is_write ? CZYDIS_ROLE_PUSH : CZYDIS_ROLE_POP;
            else if (instruction.mnemonic == ZYDIS_MNEMONIC_LEAVE)
                to->role = CZYDIS_ROLE_POP;
            else if (instruction.mnemonic == ZYDIS_MNEMONIC_XLAT)
                to->role = CZYDIS_ROLE_TABLE;
            else if ((to->base == data || to->base == source)
                     && (instruction.meta.category == ZYDIS_CATEGORY_STRINGOP
                         || instruction.meta.category == ZYDIS_CATEGORY_IOSTRINGOP))
                to->role = CZYDIS_ROLE_STRING;
        }
        if (instruction.meta.category == ZYDIS_CATEGORY_BITBYTE && i == 0
            && instruction.operand_count_visible > 1
            && decoded[1].type == ZYDIS_OPERAND_TYPE_REGISTER
            && (instruction.mnemonic == ZYDIS_MNEMONIC_BT
                || instruction.mnemonic == ZYDIS_MNEMONIC_BTS
                || instruction.mnemonic == ZYDIS_MNEMONIC_BTR
                || instruction.mnemonic == ZYDIS_MNEMONIC_BTC))
            to->bit_index = czydis_register(decoded[1].reg.value);
    }
    return found;
}

/* The mnemonic in lower case, for as long as the process lives; never NULL. */
static inline const char *czydis_mnemonic(uint16_t mnemonic) {
    const char *name = ZydisMnemonicGetString((ZydisMnemonic)mnemonic);
    return name != NULL ? name : "";
}

/* The mnemonics that the Swift side tells apart. */
enum {
    CZYDIS_IN = ZYDIS_MNEMONIC_IN,
    CZYDIS_OUT = ZYDIS_MNEMONIC_OUT,
    CZYDIS_INSB = ZYDIS_MNEMONIC_INSB,
    CZYDIS_INSW = ZYDIS_MNEMONIC_INSW,
    CZYDIS_INSD = ZYDIS_MNEMONIC_INSD,
    CZYDIS_OUTSB = ZYDIS_MNEMONIC_OUTSB,
    CZYDIS_OUTSW = ZYDIS_MNEMONIC_OUTSW,
    CZYDIS_OUTSD = ZYDIS_MNEMONIC_OUTSD,
    CZYDIS_HLT = ZYDIS_MNEMONIC_HLT,
    CZYDIS_RDTSC = ZYDIS_MNEMONIC_RDTSC,
    CZYDIS_RDTSCP = ZYDIS_MNEMONIC_RDTSCP,
    CZYDIS_CPUID = ZYDIS_MNEMONIC_CPUID,
    CZYDIS_RDRAND = ZYDIS_MNEMONIC_RDRAND,
    CZYDIS_RDSEED = ZYDIS_MNEMONIC_RDSEED,
    CZYDIS_RDPMC = ZYDIS_MNEMONIC_RDPMC,
    CZYDIS_RDMSR = ZYDIS_MNEMONIC_RDMSR,
    CZYDIS_WRMSR = ZYDIS_MNEMONIC_WRMSR,
    CZYDIS_INT3 = ZYDIS_MNEMONIC_INT3,
    CZYDIS_INT = ZYDIS_MNEMONIC_INT,
    CZYDIS_IRET = ZYDIS_MNEMONIC_IRET,
    CZYDIS_IRETD = ZYDIS_MNEMONIC_IRETD,
    CZYDIS_IRETQ = ZYDIS_MNEMONIC_IRETQ,
    CZYDIS_SYSCALL = ZYDIS_MNEMONIC_SYSCALL,
    CZYDIS_SYSRET = ZYDIS_MNEMONIC_SYSRET,
    CZYDIS_CALL = ZYDIS_MNEMONIC_CALL,
    CZYDIS_RET = ZYDIS_MNEMONIC_RET,
    CZYDIS_JMP = ZYDIS_MNEMONIC_JMP
};

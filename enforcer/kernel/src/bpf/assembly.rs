//! Puts small eBPF programs together, whose constants are known when they are loaded
//! (Documentation/bpf/standardization/instruction-set.rst).

use aya_obj::generated::bpf_insn;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// A register: 0 is a function's result, 1 to 5 its arguments, 6 to 9 stay over a call.
pub(super) type Register = u8;

/// A comparison: the masked bits of a register are equal to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub register: Register,
    pub mask: u32,
    pub value: u32,
}

/// A program under construction.
#[derive(Clone, Debug, Default)]
pub(super) struct Assembly(Vec<bpf_insn>);

/// The register that conditions are calculated in.
const SCRATCH: Register = 5;

impl Assembly {
    /// Returns the instructions.
    pub(super) fn finish(self) -> Vec<bpf_insn> {
        self.0
    }

    fn add(
        &mut self,
        code: u8,
        to: Register,
        from: Register,
        offset: i16,
        value: i32,
    ) -> &mut Self {
        self.0.push(bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(to, from),
            off: offset,
            imm: value,
        });
        self
    }

    /// `to = *(u32 *)(from + offset)`
    pub(super) fn load_word(&mut self, to: Register, from: Register, offset: i16) -> &mut Self {
        self.add(0x61, to, from, offset, 0)
    }

    /// `to = *(u64 *)(from + offset)`
    pub(super) fn load_long(&mut self, to: Register, from: Register, offset: i16) -> &mut Self {
        self.add(0x79, to, from, offset, 0)
    }

    /// `*(u8 *)(to) = value`
    pub(super) fn store_byte(&mut self, to: Register, value: u8) -> &mut Self {
        self.add(0x72, to, 0, 0, value.into())
    }

    /// `*(u32 *)(to + offset) = from`
    pub(super) fn store_word(&mut self, to: Register, offset: i16, from: Register) -> &mut Self {
        self.add(0x63, to, from, offset, 0)
    }

    /// `to = value`
    pub(super) fn set(&mut self, to: Register, value: i32) -> &mut Self {
        self.add(0xb7, to, 0, 0, value)
    }

    /// `to = from`
    pub(super) fn copy(&mut self, to: Register, from: Register) -> &mut Self {
        self.add(0xbf, to, from, 0, 0)
    }

    /// `to += from`
    pub(super) fn sum(&mut self, to: Register, from: Register) -> &mut Self {
        self.add(0x0f, to, from, 0, 0)
    }

    /// `to += value`
    pub(super) fn increase(&mut self, to: Register, value: i32) -> &mut Self {
        self.add(0x07, to, 0, 0, value)
    }

    /// Makes a register the address of a map.
    pub(super) fn map(&mut self, to: Register, map: BorrowedFd<'_>) -> &mut Self {
        const PSEUDO_MAP_FD: u8 = 1;
        self.wide(to, PSEUDO_MAP_FD, descriptor(map))
    }

    /// Makes a register the address of the only value of a map.
    pub(super) fn value_of(&mut self, to: Register, map: BorrowedFd<'_>) -> &mut Self {
        const PSEUDO_MAP_VALUE: u8 = 2;
        self.wide(to, PSEUDO_MAP_VALUE, descriptor(map))
    }

    fn wide(&mut self, to: Register, kind: u8, value: u64) -> &mut Self {
        let half = |value: u64| {
            u32::try_from(value & 0xffff_ffff)
                .unwrap_or(0)
                .cast_signed()
        };
        self.add(0x18, to, kind, 0, half(value));
        self.add(0, 0, 0, 0, half(value >> 32))
    }

    /// Calls a helper of the kernel's.
    pub(super) fn call(&mut self, helper: i32) -> &mut Self {
        self.add(0x85, 0, 0, 0, helper)
    }

    /// Jumps over the instructions of `then` unless a register is below a value.
    pub(super) fn if_below(&mut self, one: Register, value: i32, then: Self) -> &mut Self {
        let over = i16::try_from(then.0.len()).unwrap_or(i16::MAX);
        // JGE
        self.add(0x35, one, 0, over, value);
        self.0.extend(then.0);
        self
    }

    /// Jumps over the instructions of `then` unless all conditions hold.
    pub(super) fn if_all(&mut self, conditions: &[Condition], then: &Self) -> &mut Self {
        let mut left: usize = conditions.iter().map(length).sum();
        for condition in conditions {
            let mut register = condition.register;
            if condition.mask != u32::MAX {
                register = SCRATCH;
                self.copy(SCRATCH, condition.register);
                // `w5 &= mask`
                self.add(0x54, SCRATCH, 0, 0, condition.mask.cast_signed());
            }
            left -= length(condition);
            let over = i16::try_from(left + then.0.len()).unwrap_or(i16::MAX);
            // JNE of 32 bits (Linux 5.1).
            self.add(0x56, register, 0, over, condition.value.cast_signed());
        }
        self.0.extend(&then.0);
        self
    }

    pub(super) fn exit(&mut self, result: i32) -> &mut Self {
        self.set(0, result).add(0x95, 0, 0, 0, 0)
    }
}

/// Returns the number of instructions of a condition.
fn length(condition: &Condition) -> usize {
    if condition.mask == u32::MAX { 1 } else { 3 }
}

fn descriptor(map: BorrowedFd<'_>) -> u64 {
    map.as_raw_fd().cast_unsigned().into()
}

//! Every form of every instruction that CPUID advertises is in the instruction table, and the flags that a row declares
//! are those that iced knows.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, EncodingKind, Instruction, MemoryOperand, Mnemonic, OpCodeInfo,
    OpCodeOperandKind as K, OpKind, Register as R, RflagsBits,
};
use softmetal_cpu::block::{self, Decoded, Extent};
use softmetal_cpu::exec;
use softmetal_cpu::exec::cpuid::Model;
use softmetal_cpu::lower::Lower;
use softmetal_cpu::state::Mode;
use softmetal_cpu::table;
use softmetal_cpu::testing::operands::{self, Registers};

/// All features that there are.
fn everything() -> Model {
    let mut model = Model::max();
    for name in Model::feature_names() {
        assert!(model.set(name, true));
    }
    model
}

/// Advertised by their feature, but not there, and why.
fn excluded(code: Code) -> Option<&'static str> {
    use Mnemonic as M;
    Some(match code.mnemonic() {
        M::Fnsetpm | M::Fneni | M::Fndisi | M::Frstpm | M::Fsetpm | M::Feni | M::Fdisi => "8087 and 80287 only",
        M::Fstdw | M::Fnstdw | M::Fstsg | M::Fnstsg => "80387SL only",
        M::Fstpnce => "an alias that Intel does not document",
        _ => return None,
    })
}

/// A register for operand `n` of `kind`, if it can be one; vector registers are all different, as gathers demand.
fn register(kind: K, n: u32) -> Option<R> {
    let all = operands::registers(kind)?;
    Some(all.nth(match all {
        Registers::Xmm | Registers::Ymm => 1 + n,
        Registers::Segment => 3,
        Registers::Control | Registers::Debug => 0,
        _ => 1,
    }))
}

/// An instruction of `code`, its operand that can be memory in memory or not.
fn synthesise(info: &OpCodeInfo, bits: u32, memory: bool) -> Option<Instruction> {
    let mut i = Instruction::default();
    i.set_code(info.code());
    let address = if info.address_size() == 0 { bits } else { info.address_size() };
    let base = [R::BX, R::EBX, R::RBX][address.trailing_zeros() as usize - 4];
    for n in 0..info.op_count() {
        let kind = info.op_kind(n);
        if operands::may_be_memory(kind) && (memory || register(kind, n).is_none()) {
            i.set_op_kind(n, OpKind::Memory);
            let m = MemoryOperand::with_base_displ_size(base, 8, 1);
            i.set_memory_base(m.base);
            if let Some(indices) = operands::gathered_by(kind) {
                i.set_memory_index(indices.nth(7));
            }
            i.set_memory_displacement64(8);
            i.set_memory_displ_size(1);
            continue;
        }
        if let Some(r) = register(kind, n) {
            i.set_op_kind(n, OpKind::Register);
            i.set_op_register(n, r);
            continue;
        }
        match kind {
            K::mem_offs => {
                i.set_memory_displ_size(bits / 8);
                i.set_memory_displacement64(0x1000);
            }
            K::seg_rBX_al => {
                i.set_memory_base(base);
                i.set_memory_index(R::AL);
            }
            K::imm8_const_1 => i.set_immediate8(1),
            _ => {}
        }
        i.set_op_kind(n, operands::other(info, n, bits)?);
    }
    // The operands above may not suit the address size that the code itself demands (LOOP, JCXZ, MASKMOVQ).
    let mut encoder = Encoder::new(bits);
    let len = encoder.encode(&i, 0).ok()?;
    let bytes = encoder.take_buffer();
    let decoded = Decoder::with_ip(bits, &bytes[..len], 0, DecoderOptions::NONE).decode();
    (decoded.code() == info.code()).then_some(decoded)
}

/// All instructions to audit, with their code size; and the codes for which none could be made.
fn instructions() -> (Vec<(u32, Instruction)>, Vec<Code>) {
    let model = everything();
    let mut all = Vec::new();
    let mut failed = Vec::new();
    for code in Code::values() {
        let info = code.op_code();
        let advertised = |f: &CpuidFeature| model.supports(*f);
        // The forms with FWAIT are a WAIT and another instruction.
        if !info.is_instruction() || info.fwait() || !code.cpuid_features().iter().all(advertised) || excluded(code).is_some() {
            continue;
        }
        for (bits, legal) in [(16, info.intel_decoder16()), (32, info.intel_decoder32()), (64, info.intel_decoder64())] {
            if !legal {
                continue;
            }
            let made: Vec<_> = [false, true].into_iter().filter_map(|m| synthesise(info, bits, m)).collect();
            // What cannot be encoded in 16-bit mode (32-bit forms with prefixes can) is covered by the other modes.
            if made.is_empty() && bits != 16 {
                failed.push(code);
            }
            all.extend(made.into_iter().map(|i| (bits, i)));
        }
    }
    (all, failed)
}

fn mode(bits: u32) -> Mode {
    Mode(match bits {
        16 => Mode::CODE_16,
        32 => Mode::CODE_32,
        _ => Mode::CODE_64,
    })
}

#[test]
fn every_advertised_form_has_a_handler() {
    let (all, failed) = instructions();
    assert!(all.len() > 1500, "only {} instructions made", all.len());
    let mut without_row = BTreeSet::new();
    let mut without_form = BTreeMap::<String, BTreeSet<String>>::new();
    for (bits, i) in &all {
        let name = format!("{:?}", i.mnemonic());
        match table::find(i.mnemonic()) {
            None => {
                without_row.insert(name);
            }
            Some(row) => {
                if (row.lower)(&Lower::new(i, mode(*bits), 0, exec::unimplemented)).is_none() {
                    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
                    let form = format!("{:?}/{bits}{}", i.code(), if memory { "/mem" } else { "" });
                    without_form.entry(name).or_default().insert(form);
                }
            }
        }
    }
    let mut report = String::new();
    if !without_row.is_empty() {
        report += &format!("{} mnemonics without a row: {}\n", without_row.len(), without_row.into_iter().collect::<Vec<_>>().join(" "));
    }
    for (name, forms) in without_form {
        report += &format!("{name}: no handler for {}\n", forms.into_iter().collect::<Vec<_>>().join(" "));
    }
    if !failed.is_empty() {
        report += &format!("the audit cannot make: {failed:?}\n");
    }
    assert!(report.is_empty(), "\n{report}");
}

fn letters(flags: u32) -> String {
    let names = [
        (RflagsBits::OF, 'o'),
        (RflagsBits::SF, 's'),
        (RflagsBits::ZF, 'z'),
        (RflagsBits::AF, 'a'),
        (RflagsBits::PF, 'p'),
        (RflagsBits::CF, 'c'),
        (RflagsBits::IF, 'i'),
        (RflagsBits::DF, 'd'),
    ];
    names.iter().filter(|(f, _)| flags & f != 0).map(|(_, c)| c).collect()
}

#[test]
fn declared_flags_are_those_of_iced() {
    let (all, _) = instructions();
    let mut known = BTreeMap::<Mnemonic, u32>::new();
    for (_, i) in &all {
        // MOV with a control or debug register leaves the flags undefined; here it keeps them.
        let system = |r: R| r.is_cr() || r.is_dr();
        let kept = i.mnemonic() == Mnemonic::Mov && (system(i.op0_register()) || system(i.op1_register()));
        *known.entry(i.mnemonic()).or_default() |= if kept { 0 } else { i.rflags_modified() };
    }
    let mut wrong = Vec::new();
    for (mnemonic, flags) in known {
        let Some(row) = table::find(mnemonic) else { continue };
        let iced = letters(flags);
        if row.modifies != iced {
            wrong.push(format!("{mnemonic:?}: the row says {:?}, iced {iced:?}", row.modifies));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What an instruction means where its feature is off, if that is not #UD (SDM 2; APM 3).
fn means_else(mnemonic: Mnemonic) -> Option<Mnemonic> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Tzcnt => M::Bsf,
        M::Lzcnt => M::Bsr,
        M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 => M::Nop,
        _ => return None,
    })
}

#[test]
fn a_feature_that_is_off_takes_its_instructions_along() {
    let (all, _) = instructions();
    let mut refused = 0;
    for feature in Model::feature_names() {
        let mut model = everything();
        model.set(feature, false);
        let forms = model.forms();
        let gone: Vec<_> = all.iter().filter(|(_, i)| !i.code().cpuid_features().iter().all(|&f| model.supports(f))).collect();
        for (bits, i) in gone {
            // AMD's extensions to MMX have some of SSE's.
            if feature == "sse" && forms.meaning(i) == Some(i.mnemonic()) {
                let mmx = i.op0_register().is_mm() || i.op1_register().is_mm();
                assert!(mmx || i.mnemonic() == Mnemonic::Sfence || means_else(i.mnemonic()) == Some(Mnemonic::Nop), "{:?}", i.code());
                continue;
            }
            assert_eq!(forms.meaning(i), means_else(i.mnemonic()), "{:?} without {feature}", i.code());
            let mut encoder = Encoder::new(*bits);
            encoder.encode(i, i.ip()).unwrap();
            let mut bytes = encoder.take_buffer();
            bytes.resize(16, 0);
            let mut decoded = Decoded::default();
            assert!(block::decode(&bytes, mode(*bits), &forms, Extent::Single, &mut decoded).is_ok());
            assert_eq!(exec::is_refusal(decoded.ops[0].handler), means_else(i.mnemonic()).is_none(), "{:?} without {feature}", i.code());
            refused += 1;
        }
    }
    assert!(refused > 3000, "only {refused}");
}

/// LOCK is for stores to memory of some instructions (SDM 2, LOCK); before VEX stand only segments and address sizes (SDM
/// 2, 2.3.2 to 2.3.5), after LOCK, 66, F2, F3 or REX it is #UD.
#[test]
fn prefixes_that_are_refused() {
    let (all, _) = instructions();
    let forms = everything().forms();
    let (mut lockable, mut vex) = (0, 0);
    for (bits, i) in &all {
        let mut encoder = Encoder::new(*bits);
        encoder.encode(i, i.ip()).unwrap();
        let bytes = encoder.take_buffer();
        let refused = |prefix: &[u8]| {
            let mut bytes = [prefix, &bytes].concat();
            bytes.resize(16, 0);
            let mut decoded = Decoded::default();
            let mode = Mode(mode(*bits).0 | Mode::PROTECTED | Mode::SSE | Mode::AVX);
            assert!(block::decode(&bytes, mode, &forms, Extent::Single, &mut decoded).is_ok());
            exec::is_refusal(decoded.ops[0].handler)
        };
        let may_lock = i.op_code().can_use_lock_prefix() && i.op0_kind() == OpKind::Memory;
        assert_eq!(refused(&[0xf0]), !may_lock, "LOCK {:?}, {bits} bits", i.code());
        lockable += usize::from(may_lock);
        if i.op_code().encoding() == EncodingKind::VEX {
            vex += 1;
            for prefix in [0x66, 0xf2, 0xf3].into_iter().chain((*bits == 64).then_some(0x48)) {
                assert!(refused(&[prefix]), "{prefix:x} {:?}, {bits} bits", i.code());
            }
            // Addresses of 16 bits have no vector of indices.
            let resized = (!i.is_vsib()).then_some(&[0x67][..]);
            for prefix in [&[][..], &[0x64]].into_iter().chain(resized) {
                assert!(!refused(prefix), "{prefix:x?} {:?}, {bits} bits", i.code());
            }
        }
    }
    assert!(lockable > 150 && vex > 1000, "{lockable} with LOCK, {vex} with VEX");
}

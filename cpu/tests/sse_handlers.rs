//! MMX and SSE instructions through the whole processor against the host's: register and memory forms, with the state
//! carried in and out by FXRSTOR and FXSAVE on both sides.
#![cfg(target_arch = "x86_64")]

use core::arch::asm;

use softmetal_cpu::flags;
use softmetal_cpu::state::reg;
use softmetal_cpu::testing::{CODE, Harness};

/// What goes into an instruction and comes out of it.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq)]
struct Frame {
    /// FXSAVE64 image.
    image: [u8; 512],
    rax: u64,
    rcx: u64,
    rdx: u64,
    rflags: u64,
    reserved: [u64; 4],
    /// What RDI points to.
    memory: [u8; 64],
}

const MEMORY: u64 = core::mem::offset_of!(Frame, memory) as u64;
const _: () = assert!(MEMORY == 576 && size_of::<Frame>() == 640);
/// Where the guest has its frame.
const AT: u64 = 0x2_0000;

impl Frame {
    fn bytes(&self) -> &[u8] {
        // SAFETY: plain bytes without padding.
        unsafe { core::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// Without what is the processor's own: the last x87 instruction and its pointers, MXCSR_MASK, unused bytes.
    fn comparable(mut self) -> Self {
        self.image[6..24].fill(0);
        self.image[28..32].fill(0);
        self.image[416..].fill(0);
        self.rflags &= flags::ARITHMETIC;
        self
    }

    fn difference(&self, other: &Self) -> String {
        let mut text = String::new();
        for (i, (a, b)) in self.bytes().chunks(16).zip(other.bytes().chunks(16)).enumerate() {
            if a != b {
                text += &format!("  at {:3}: guest {a:02x?}\n           host {b:02x?}\n", 16 * i);
            }
        }
        text
    }
}

/// SplitMix64, so that failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        softmetal_bus::splitmix64(&mut self.0)
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() >> 33) as usize % from.len()]
    }
    /// 16 bytes: small numbers, doubles, singles, text, or noise, edges among them.
    fn vector(&mut self, kind: u64) -> [u8; 16] {
        const SINGLES: [u32; 12] = [
            0,
            0x8000_0000,
            1,
            0x807f_ffff,
            0x0080_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0001,
            0xffa0_0000,
            0x4f00_0000,
            0xbf80_0000,
        ];
        const DOUBLES: [u64; 12] = [
            0,
            1 << 63,
            1,
            0x800f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0x7ff8_0000_0000_0001,
            0xfff4_0000_0000_0000,
            0x41e0_0000_0000_0000,
            0x47f0_0000_0000_0000,
        ];
        const TEXT: [u8; 6] = [0, b'a', b'b', b'b', 0x7f, 0x80];
        let mut quad = || match kind % 4 {
            0 => {
                let mut single = || {
                    let ordinary = (self.next() as i32 as f32 / 65536.0).to_bits();
                    if self.next() >> 62 == 0 { self.pick(&SINGLES) } else { ordinary }
                };
                u64::from(single()) << 32 | u64::from(single())
            }
            1 if self.next() >> 62 == 0 => self.pick(&DOUBLES),
            1 => (self.next() as i64 as f64 / 4_294_967_296.0).to_bits(),
            2 => u64::from_le_bytes(std::array::from_fn(|_| self.pick(&TEXT))),
            _ => self.next(),
        };
        let (low, high) = (quad(), quad());
        (u128::from(low) | u128::from(high) << 64).to_le_bytes()
    }
    fn frame(&mut self) -> Frame {
        let kind = self.next() >> 32;
        let mut image = [0; 512];
        image[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        // TOP is 3; two registers are in use.
        image[2..4].copy_from_slice(&0x1800u16.to_le_bytes());
        image[4] = 0x81;
        let modes = [0, 0x20, 0x20, 0x20, 0x2000, 0x4020, 0x6000, 0x40, 0x8000, 0x8060, 0x3f];
        let mxcsr = 0x1f80 | self.pick(&modes);
        image[24..28].copy_from_slice(&u32::to_le_bytes(mxcsr));
        for i in 0..24 {
            let at = 32 + 16 * i;
            let v = self.vector(kind);
            image[at..at + 16].copy_from_slice(&v);
            if i < 8 {
                image[at + 10..at + 16].fill(0);
            }
        }
        let mut memory = [0; 64];
        for part in memory.chunks_exact_mut(16) {
            part.copy_from_slice(&self.vector(kind));
        }
        let small = self.next() >> 63 != 0;
        let mut integer = || if small { (self.next() as i64 >> 58) as u64 } else { self.next() };
        let (rax, rcx, rdx) = (integer(), integer(), integer());
        Frame { image, rax, rcx, rdx, rflags: 2 | self.next() & flags::ARITHMETIC, reserved: [0; 4], memory }
    }
}

/// Runs an instruction on the host and tells its bytes.
type Host = fn(&mut Frame) -> &'static [u8];

macro_rules! host {
    ($text:expr) => {
        ($text, (|frame: &mut Frame| {
            #[repr(C, align(64))]
            struct Own([u8; 512]);
            let mut own = Own([0; 512]);
            let (start, end): (*const u8, *const u8);
            // SAFETY: the instruction touches XMM, MMX and x87 registers, which FXRSTOR puts back, RAX, RCX, RDX, the
            // flags, and 64 bytes at RDI; the bytes between the labels are this function's code.
            unsafe {
                asm!(
                    "fxsave64 [r8]", "fxrstor64 [r9]",
                    "mov rax, [r9 + 512]", "mov rcx, [r9 + 520]", "mov rdx, [r9 + 528]",
                    "push qword ptr [r9 + 536]", "popfq",
                    "2:", $text, "3:",
                    "pushfq", "pop qword ptr [r9 + 536]",
                    "mov [r9 + 512], rax", "mov [r9 + 520], rcx", "mov [r9 + 528], rdx",
                    "fxsave64 [r9]", "fxrstor64 [r8]",
                    "lea rax, [rip + 2b]", "lea rdx, [rip + 3b]",
                    in("r8") &mut own, in("r9") std::ptr::from_mut(frame), in("rdi") frame.memory.as_mut_ptr(),
                    out("rax") start, out("rdx") end, out("rcx") _,
                );
                core::slice::from_raw_parts(start, end.offset_from(start) as usize)
            }
        }) as Host)
    };
}

/// Compares the guest with the host, `ROUNDS` times for each instruction.
fn compare(instructions: &[(&str, Host)]) {
    const ROUNDS: usize = 60;
    if !std::arch::is_x86_feature_detected!("sse4.2") {
        softmetal_testroms::skipped(&"this host lacks SSE4.2");
        return;
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut harness = Harness::long();
    let restore = harness.assemble(0, |a| a.fxrstor64(iced_x86::code_asm::ptr(iced_x86::code_asm::rsi)));
    let save = harness.assemble(0, |a| a.fxsave64(iced_x86::code_asm::ptr(iced_x86::code_asm::rsi)));
    let mut failures = String::new();
    for &(text, host) in instructions {
        for _ in 0..ROUNDS {
            let before = random.frame();
            let mut wanted = before;
            let bytes = host(&mut wanted);
            harness.set_mem(CODE, &[&restore, bytes, &save].concat());
            harness.set_mem(AT, before.bytes());
            let state = &mut harness.p.cpu.state;
            state.rip = CODE;
            for (r, v) in [(reg::RAX, before.rax), (reg::RCX, before.rcx), (reg::RDX, before.rdx), (reg::RSI, AT), (reg::RDI, AT + MEMORY)]
            {
                state.regs[usize::from(r)] = v;
            }
            harness.p.cpu.set_eflags(before.rflags);
            harness.run(3);
            let mut got = before;
            harness.mem(AT, &mut got.image);
            harness.mem(AT + MEMORY, &mut got.memory);
            (got.rax, got.rcx, got.rdx, got.rflags) =
                (harness.reg(reg::RAX), harness.reg(reg::RCX), harness.reg(reg::RDX), harness.flags());
            let fault = harness.exception();
            let (got, wanted) = (got.comparable(), wanted.comparable());
            if fault.is_some() || got != wanted {
                failures += &format!("{text} ({bytes:02x?}), MXCSR {:02x?}: {fault:x?}\n", &before.image[24..28]);
                failures += &got.difference(&wanted);
                break;
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

macro_rules! test {
    ($($(#[$doc:meta])* fn $name:ident { $($text:expr;)* })*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            compare(&[$(host!($text)),*]);
        }
    )*};
}

/// Each name in its register and its memory form.
macro_rules! forms {
    ($($(#[$doc:meta])* fn $name:ident($a:literal, $b:literal, $m:literal, $tail:literal) { $($op:ident)* })*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            compare(&[$(
                host!(concat!(stringify!($op), " ", $a, ", ", $b, $tail)),
                host!(concat!(stringify!($op), " ", $a, ", ", $m, " [rdi + 16]", $tail)),
            )*]);
        }
    )*};
}

forms! {
    fn floats("xmm1", "xmm12", "xmmword ptr", "") {
        addps addpd subps subpd mulps mulpd divps divpd minps minpd maxps maxpd sqrtps sqrtpd
        addsubps addsubpd haddps haddpd hsubps hsubpd
        andps andpd andnps andnpd orps orpd xorps xorpd unpcklps unpckhps unpcklpd unpckhpd
        cmpeqps cmpltps cmpleps cmpunordps cmpneqps cmpnltps cmpnleps cmpordps
        cmpeqpd cmpltpd cmplepd cmpunordpd cmpneqpd cmpnltpd cmpnlepd cmpordpd
        cvtps2dq cvttps2dq cvtpd2dq cvttpd2dq cvtdq2ps cvtpd2ps movsldup movshdup
    }
    fn singles("xmm9", "xmm2", "dword ptr", "") {
        addss subss mulss divss minss maxss sqrtss comiss ucomiss cvtss2sd
        cmpeqss cmpltss cmpless cmpunordss cmpneqss cmpnltss cmpnless cmpordss
    }
    fn doubles("xmm0", "xmm1", "qword ptr", "") {
        addsd subsd mulsd divsd minsd maxsd sqrtsd comisd ucomisd cvtsd2ss
        cmpeqsd cmpltsd cmplesd cmpunordsd cmpneqsd cmpnltsd cmpnlesd cmpordsd
        cvtps2pd cvtdq2pd movddup
    }
    fn same_register("xmm3", "xmm3", "xmmword ptr", "") {
        addps divpd haddps pxor psubb unpcklps minps
    }
    fn blends("xmm4", "xmm5", "xmmword ptr", ", xmm0") { blendvps blendvpd pblendvb }
    fn immediates_1b("xmm4", "xmm5", "xmmword ptr", ", 0x1b") {
        shufps shufpd blendps blendpd pblendw pshufd pshuflw pshufhw palignr mpsadbw
        pcmpistri pcmpistrm pcmpestri pcmpestrm
    }
    fn immediates_e4("xmm14", "xmm0", "xmmword ptr", ", 0xe6") {
        shufps shufpd blendps blendpd pblendw pshufd pshuflw pshufhw palignr mpsadbw dpps dppd
    }
    fn round_04("xmm4", "xmm5", "xmmword ptr", ", 4") { roundps roundpd palignr dpps pcmpistri pcmpistrm pcmpestri pcmpestrm }
    fn round_09("xmm4", "xmm5", "xmmword ptr", ", 9") { roundps roundpd palignr pcmpistri pcmpistrm pcmpestri pcmpestrm }
    fn round_02("xmm4", "xmm5", "xmmword ptr", ", 2") { roundps roundpd palignr }
    fn products("xmm4", "xmm5", "xmmword ptr", ", 0xff") { dpps dppd pcmpistri pcmpistrm }
    fn round_single("xmm4", "xmm5", "dword ptr", ", 3") { roundss }
    fn round_double("xmm4", "xmm5", "qword ptr", ", 0") { roundsd }
    fn insertions("xmm4", "xmm5", "dword ptr", ", 0x94") { insertps }
    fn integers("xmm8", "xmm1", "xmmword ptr", "") {
        paddb paddw paddd paddq paddsb paddsw paddusb paddusw psubb psubw psubd psubq psubsb psubsw psubusb psubusw
        pmullw pmulhw pmulhuw pmulhrsw pmuludq pmaddwd pmaddubsw psadbw pavgb pavgw pminub pminsw pmaxub pmaxsw
        psignb psignw psignd pabsb pabsw pabsd pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw pcmpgtd pand pandn por pxor
        phaddw phaddd phaddsw phsubw phsubd phsubsw packsswb packuswb packssdw punpcklbw punpcklwd punpckldq
        punpckhbw punpckhwd punpckhdq punpcklqdq punpckhqdq pshufb pmulld pmuldq pminsb pminuw pminud pminsd
        pmaxsb pmaxuw pmaxud pmaxsd pcmpeqq pcmpgtq packusdw phminposuw ptest
        psllw pslld psllq psrlw psrld psrlq psraw psrad
    }
    fn mmx("mm1", "mm6", "qword ptr", "") {
        paddb paddw paddd paddq paddsb paddsw paddusb paddusw psubb psubw psubd psubq psubsb psubsw psubusb psubusw
        pmullw pmulhw pmulhuw pmulhrsw pmuludq pmaddwd pmaddubsw psadbw pavgb pavgw pminub pminsw pmaxub pmaxsw
        psignb psignw psignd pabsb pabsw pabsd pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw pcmpgtd pand pandn por pxor
        phaddw phaddd phaddsw phsubw phsubd phsubsw packsswb packuswb packssdw punpckhbw punpckhwd punpckhdq pshufb
        psllw pslld psllq psrlw psrld psrlq psraw psrad movq
    }
    fn mmx_low("mm7", "mm0", "dword ptr", "") { punpcklbw punpcklwd punpckldq }
    fn mmx_immediates("mm2", "mm3", "qword ptr", ", 0x1d") { pshufw }
    fn mmx_align("mm2", "mm3", "qword ptr", ", 5") { palignr }
    fn widen_8("xmm1", "xmm2", "qword ptr", "") { pmovsxbw pmovsxwd pmovsxdq pmovzxbw pmovzxwd pmovzxdq movq }
    fn widen_4("xmm1", "xmm2", "dword ptr", "") { pmovsxbd pmovsxwq pmovzxbd pmovzxwq }
    fn widen_2("xmm1", "xmm2", "word ptr", "") { pmovsxbq pmovzxbq }
    fn moves("xmm10", "xmm3", "xmmword ptr", "") { movaps movapd movups movupd movdqa movdqu }
    fn to_integers_of_single("rax", "xmm3", "dword ptr", "") { cvtss2si cvttss2si }
    fn to_integers_of_double("rcx", "xmm3", "qword ptr", "") { cvtsd2si cvttsd2si }
    fn to_32_bits_of_single("eax", "xmm11", "dword ptr", "") { cvtss2si cvttss2si }
    fn to_32_bits_of_double("ecx", "xmm11", "qword ptr", "") { cvtsd2si cvttsd2si }
    fn from_integers("xmm1", "rdx", "qword ptr", "") { cvtsi2ss cvtsi2sd }
    fn from_32_bits("xmm1", "edx", "dword ptr", "") { cvtsi2ss cvtsi2sd }
    fn mmx_to_floats("xmm1", "mm2", "qword ptr", "") { cvtpi2pd }
    fn floats_to_mmx("mm1", "xmm2", "xmmword ptr", "") { cvtpd2pi cvttpd2pi }
    fn singles_to_mmx("mm1", "xmm2", "qword ptr", "") { cvtps2pi cvttps2pi }
}

test! {
    fn partial_moves {
        "movss xmm1, xmm2"; "movss xmm1, [rdi + 3]"; "movss [rdi + 5], xmm9";
        "movsd xmm1, xmm2"; "movsd xmm1, [rdi + 3]"; "movsd [rdi + 5], xmm9";
        "movlps xmm1, [rdi + 3]"; "movlps [rdi + 5], xmm9"; "movhps xmm1, [rdi + 3]"; "movhps [rdi + 5], xmm9";
        "movlpd xmm1, [rdi + 3]"; "movlpd [rdi + 5], xmm9"; "movhpd xmm1, [rdi + 3]"; "movhpd [rdi + 5], xmm9";
        "movlhps xmm1, xmm2"; "movhlps xmm1, xmm2"; "movmskps eax, xmm2"; "movmskpd ecx, xmm2";
        "movd xmm1, eax"; "movd eax, xmm1"; "movq xmm1, rax"; "movq rax, xmm1"; "movd xmm1, [rdi + 7]"; "movd [rdi + 7], xmm1";
        "movq xmm1, qword ptr [rdi + 7]"; "movq qword ptr [rdi + 7], xmm1"; "movq xmm1, xmm2";
        "movd mm1, eax"; "movd eax, mm1"; "movq mm1, rax"; "movq rax, mm1"; "movd mm1, [rdi + 7]"; "movd [rdi + 7], mm1";
        "movq [rdi + 7], mm1"; "movntq [rdi + 8], mm1"; "movq2dq xmm1, mm2"; "movdq2q mm1, xmm2";
    }
    fn stores {
        "movaps [rdi + 16], xmm1"; "movapd [rdi + 16], xmm1"; "movdqa [rdi + 16], xmm1";
        "movups [rdi + 11], xmm1"; "movupd [rdi + 11], xmm1"; "movdqu [rdi + 11], xmm1";
        "movntps [rdi + 16], xmm1"; "movntpd [rdi + 16], xmm1"; "movntdq [rdi + 16], xmm1";
        "movups xmm1, [rdi + 11]"; "lddqu xmm1, [rdi + 11]"; "movntdqa xmm1, [rdi + 16]";
        "movnti [rdi + 3], eax"; "movnti [rdi + 3], rcx";
        "maskmovdqu xmm1, xmm2"; "maskmovq mm1, mm2"; "stmxcsr [rdi + 3]";
    }
    fn lanes {
        "pinsrb xmm1, eax, 13"; "pinsrb xmm1, [rdi + 1], 13"; "pinsrw xmm1, eax, 5"; "pinsrw xmm1, [rdi + 1], 5";
        "pinsrd xmm1, eax, 3"; "pinsrd xmm1, [rdi + 1], 2"; "pinsrq xmm1, rax, 1"; "pinsrq xmm1, [rdi + 1], 0";
        "pinsrw mm1, eax, 3"; "pinsrw mm1, [rdi + 1], 6";
        "pextrb eax, xmm1, 9"; "pextrb [rdi + 1], xmm1, 9"; "pextrw eax, xmm1, 6"; "pextrw [rdi + 1], xmm1, 6";
        "pextrd eax, xmm1, 1"; "pextrd [rdi + 1], xmm1, 1"; "pextrq rax, xmm1, 1"; "pextrq [rdi + 1], xmm1, 1";
        "pextrw ecx, mm4, 2"; "extractps eax, xmm1, 2"; "extractps [rdi + 1], xmm1, 3"; "insertps xmm1, xmm2, 0xd8";
        "pmovmskb eax, xmm1"; "pmovmskb ecx, mm1";
    }
    fn shifts {
        "psllw xmm1, 3"; "pslld xmm1, 31"; "psllq xmm1, 40"; "pslldq xmm1, 5"; "psrldq xmm1, 11"; "psrldq xmm1, 16";
        "psrlw xmm1, 3"; "psrld xmm1, 31"; "psrlq xmm1, 40"; "psraw xmm1, 16"; "psrad xmm1, 7";
        "psllw mm1, 3"; "pslld mm1, 31"; "psllq mm1, 40"; "psrlw mm1, 16"; "psrld mm1, 31"; "psrlq mm1, 64"; "psraw mm1, 15"; "psrad mm1, 7";
    }
    // The memory form leaves the x87 alone on AMD's processors, but not on Intel's.
    fn mmx_to_singles { "cvtpi2ps xmm1, mm2"; }
    fn others {
        "crc32 eax, cl"; "crc32 eax, cx"; "crc32 eax, ecx"; "crc32 rax, rcx"; "crc32 rax, cl"; "crc32 eax, byte ptr [rdi + 1]"; "crc32 rax, qword ptr [rdi + 1]";
        "emms"; "lfence"; "sfence"; "mfence"; "clflush [rdi]"; "prefetcht0 [rdi]"; "prefetchnta [rdi + 1]"; "prefetchw [rdi]";
        "fld1"; "fincstp"; "ffree st(0)";
    }
}

//! Jumps and calls from page to page, as direct jumps.
//!
//! Where a jump to another page leads depends on the address space: it is known by its linear address alone. Once the run loop
//! has found what is there, the jump is patched to lead there by itself, as those within a page are; but that counts in one
//! epoch (see [`crate::mmu`]), and for one linear address of the page that it lies in. So
//!
//! * all such jumps of a privilege are taken back before anything of it runs in another epoch,
//! * for each epoch it is kept at which linear address each page was run, as far as the run loop has entered it ([`Links::meet`]):
//!   in an epoch nothing else enters a page first. Jumps of one that was run at two are never patched,
//! * those that lead to a block are taken back when it is retired.
//!
//! A jump that is not to be patched, or that was taken back too often, looks into the jump cache.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::backend::{Backend, Edge, Target};
use super::{OFFSET, Translator};
use crate::block::{Block, KeyHasher, Map};
use crate::state::{Cpu, Mode};

/// A jump that was taken back too soon so often looks into the jump cache.
const UNSTEADY: u8 = 4;
/// Jumps are taken back too soon if less than so many instructions have been run for each of them: to be patched costs as much as
/// about 1000, and what that brings is less than a tenth.
const SOON: u64 = 20_000;
/// Places of pages that are kept at most; then the jump caches are emptied, so that nothing is entered at a place not kept.
const MOST: usize = 1 << 16;

/// A page of code, in one mode.
#[derive(Default)]
struct Page {
    /// The epoch in which it was met last, and at which linear address.
    last: Option<(u64, u64)>,
    /// It was met at two linear addresses in one epoch.
    twice: bool,
}

/// What jumps between pages are valid by.
#[derive(Default)]
pub(super) struct Links {
    /// By physical address and mode.
    by_place: Map<u32>,
    pages: Vec<Page>,
    /// By epoch and page: its linear address.
    met: HashMap<(u64, u32), u64, BuildHasherDefault<KeyHasher>>,
    /// By privilege.
    patched: [Patched; 2],
}

/// The jumps of a privilege that are patched, and perhaps some that are no longer.
#[derive(Default)]
struct Patched {
    edges: Vec<u32>,
    /// The instruction count when others were taken back last.
    since: u64,
}

impl Links {
    /// The number of the page of `physical`, for code of `mode`.
    pub(super) fn page(&mut self, physical: u64, mode: Mode) -> u32 {
        let next = self.pages.len() as u32;
        let number = *self.by_place.entry(crate::block::key(physical & !OFFSET, mode)).or_insert(next);
        if number == next {
            self.pages.push(Page::default());
        }
        number
    }

    /// Page `page` is about to be run at `linear` in `epoch`; false if it has just turned out to be run at two addresses.
    #[inline(always)]
    fn meet(&mut self, page: u32, epoch: u64, linear: u64) -> bool {
        let p = &mut self.pages[page as usize];
        if p.last == Some((epoch, linear)) || p.twice {
            return true;
        }
        p.last = Some((epoch, linear));
        p.twice = *self.met.entry((epoch, page)).or_insert(linear) != linear;
        !p.twice
    }
}

impl<B: Backend> Translator<B> {
    /// `block`, whose code lies in page `page`, is about to be run: its privilege's jumps between pages count.
    #[inline(always)]
    pub(super) fn enter_page(&mut self, cpu: &mut Cpu, page: u32, block: &Block) {
        let user = block.mode.user();
        let epoch = cpu.mmu.code_epoch(user);
        let linear = cpu.linear_rip() & !OFFSET;
        if self.links.met.len() >= MOST {
            self.forget_pages(cpu);
        }
        let met = self.links.meet(page, epoch, linear);
        if !met || cpu.jit.linked_in[usize::from(user)].is_some_and(|e| e != epoch) {
            self.take_back(cpu, user);
        }
    }

    /// Forgets where pages were met, and whatever leads to them.
    #[cold]
    fn forget_pages(&mut self, cpu: &mut Cpu) {
        self.backend.forget_addresses(cpu);
        self.links.met.clear();
        self.links.pages.iter_mut().for_each(|p| p.last = None);
        self.take_back(cpu, false);
        self.take_back(cpu, true);
    }

    /// Edge number `edge`, which leads to another page, has led to translation `number` of `block`, or something has come between.
    pub(super) fn link_pages(&mut self, edge: usize, number: u32, block: &Block, cpu: &mut Cpu) {
        let e = &self.edges[edge];
        let Target::Elsewhere { at, .. } = e.target else { return };
        let user = block.mode.user();
        let epoch = cpu.mmu.code_epoch(user);
        if e.mode != block.mode {
            return;
        }
        if self.links.pages[e.page as usize].twice || e.taken_back >= UNSTEADY {
            return self.look_up(edge);
        }
        let Some(page) = self.links.met.get(&(epoch, e.page)) else { return };
        if page.wrapping_add(at as u64) != cpu.linear_rip() {
            return;
        }
        if cpu.jit.linked_in[usize::from(user)].is_some_and(|e| e != epoch) {
            self.take_back(cpu, user);
        }
        cpu.jit.linked_in[usize::from(user)] = Some(epoch);
        let t = &mut self.translations[number as usize - 1];
        t.callers.push(edge as u32);
        let e = &mut self.edges[edge];
        e.leads_to = number;
        if !std::mem::replace(&mut e.listed, true) {
            self.links.patched[usize::from(user)].edges.push(edge as u32);
        }
        self.backend.link(e.field, t.far);
    }

    /// Has edge number `edge` look into the jump cache.
    fn look_up(&mut self, edge: usize) {
        let e = &self.edges[edge];
        if self.backend.has_room() {
            let to = self.backend.look_up(e.mode.user());
            self.backend.link(e.field, to);
        }
    }

    /// Takes back the jumps between pages of a privilege.
    #[cold]
    fn take_back(&mut self, cpu: &mut Cpu, user: bool) {
        cpu.jit.linked_in[usize::from(user)] = None;
        let patched = &mut self.links.patched[usize::from(user)];
        let lasted = cpu.state.icount.wrapping_sub(std::mem::replace(&mut patched.since, cpu.state.icount));
        let soon = lasted / SOON < patched.edges.len() as u64;
        for edge in std::mem::take(&mut patched.edges) {
            let e = &mut self.edges[edge as usize];
            e.listed = false;
            if e.leads_to != 0 {
                e.taken_back += u8::from(soon);
                unlink(&mut self.backend, e);
            }
        }
    }

    /// Takes back the jumps to translation `number`, which is retired.
    pub(super) fn unlink_callers(&mut self, number: u32) {
        for edge in std::mem::take(&mut self.translations[number as usize - 1].callers) {
            let e = &mut self.edges[edge as usize];
            if e.leads_to == number {
                unlink(&mut self.backend, e);
            }
        }
    }
}

/// Has an edge leave by itself again.
fn unlink<B: Backend>(backend: &mut B, e: &mut Edge) {
    if let Target::Elsewhere { leaves, .. } = e.target {
        e.leads_to = 0;
        backend.link(e.field, leaves);
    }
}

//! Code that may lie anywhere, until it is told where.

use super::arena::Origin;
use super::assembler::{Assembler, Base, Relocation};
use crate::translator::backend::{Edge, Made, Target};

/// Where code is made for: displacements of 32 bits count as if both its pieces began at 0.
pub const NOWHERE: Origin = Origin { straight: 0, aside: 1 << 32 };

/// Code that was made for [`NOWHERE`], or has been moved from there.
#[derive(Default)]
pub struct Code {
    /// The straight way, then what is rare.
    bytes: Vec<u8>,
    /// How many are of the straight way; the others are rare.
    straight: usize,
    /// What of them depends on where they lie.
    relocations: Vec<Relocation>,
    /// Its places.
    pub made: Made,
    /// Its ways out to other blocks.
    pub edges: Vec<Edge>,
}

/// Lists that code is made in; what they hold counts for nothing.
#[derive(Default)]
pub struct Room {
    /// For [`Assembler::new`].
    pub code: (Vec<u8>, Vec<Relocation>),
    /// For the ways out.
    pub edges: Vec<Edge>,
}

impl Code {
    /// Gives its lists away, for what it will be [`Code::set`] to.
    pub fn room(&mut self) -> Room {
        let code = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.relocations));
        self.edges.clear();
        Room { code, edges: std::mem::take(&mut self.edges) }
    }

    /// Becomes what is in `code`, made for [`NOWHERE`], as are the places in `made` and `edges`.
    pub fn set(&mut self, code: Assembler, made: Made, edges: Vec<Edge>) {
        self.straight = code.parts().0.len();
        (self.bytes, self.relocations) = (code.code, code.relocations);
        (self.made, self.edges) = (made, edges);
    }

    /// The straight way, and what is rare.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.straight)
    }

    /// Moves it from [`NOWHERE`] to `to`, as the code of a translation whose edges are numbered from `first_edge`.
    pub fn move_to(&mut self, to: Origin, first_edge: usize, number: u32) {
        let [straight, aside] = [to.straight as u32, to.aside as u32];
        for &Relocation { at, base } in &self.relocations {
            let own = if (at as usize) < self.straight { straight } else { aside };
            let by = match base {
                Base::Straight => straight.wrapping_sub(own),
                Base::Aside => aside.wrapping_sub(own),
                Base::Elsewhere => own.wrapping_neg(),
                Base::Edge => first_edge as u32,
                Base::Number => number,
            };
            if let Some(field) = self.bytes[at as usize..].first_chunk_mut() {
                *field = u32::from_le_bytes(*field).wrapping_add(by).to_le_bytes();
            }
        }
        let place = |at: &mut u64| {
            let start = if *at < NOWHERE.aside { to.straight } else { to.aside };
            *at = start + (*at & (NOWHERE.aside - 1));
        };
        let Made { code: [(straight, _), (aside, _)], far, near, body, gone, .. } = &mut self.made;
        [straight, aside, far, near, body, gone].into_iter().for_each(place);
        for edge in &mut self.edges {
            place(&mut edge.field);
            edge.closes.as_mut().map(place);
            if let Target::Elsewhere { leaves, .. } = &mut edge.target {
                place(leaves);
            }
        }
    }
}

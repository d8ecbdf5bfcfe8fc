//! Softmetal.

//! In place of `panics` in a build without `std`, which cannot catch a panic: one goes on at once, and what was to be
//! freed after it leaks.

#[derive(Default)]
pub(crate) struct Panics(());

impl Panics {
    pub(crate) fn drop<V>(&mut self, value: V) {
        drop(value);
    }

    pub(crate) const fn is_any(&self) -> bool {
        false
    }

    pub(crate) const fn go_on(self) {}
}

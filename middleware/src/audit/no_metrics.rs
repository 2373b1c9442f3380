//! The same as `metrics.rs` without the feature: nothing, at no cost.

#[expect(clippy::missing_const_for_fn, reason = "the other one cannot be")]
pub(crate) fn count(_: &'static str, _: Option<&'static str>) {}

#[derive(Debug, Default)]
pub(crate) struct Wait(());

impl Wait {
    #[expect(clippy::unused_self, reason = "the other one needs it")]
    pub(crate) fn begin(&mut self) {}

    #[expect(clippy::unused_self, reason = "the other one needs it")]
    pub(crate) fn end(&mut self, _: &'static str) {}
}

//! Compiles the examples of the README and of the migration guides as documentation tests. It holds no code of its
//! own.

/// The README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The pages for those who come from another library.
#[cfg(doctest)]
pub mod migrate {
    /// From SCS.
    #[doc = include_str!("../../docs/migrate/scs.md")]
    pub struct Scs;

    /// From gorilla/sessions.
    #[doc = include_str!("../../docs/migrate/gorilla.md")]
    pub struct Gorilla;

    /// From axum_session.
    #[doc = include_str!("../../docs/migrate/axum-session.md")]
    pub struct AxumSession;

    /// From actix-session.
    #[doc = include_str!("../../docs/migrate/actix-session.md")]
    pub struct ActixSession;
}

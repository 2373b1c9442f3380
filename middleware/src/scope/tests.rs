//! The stack is what it was after every way out of a scope, and lookups find the innermost frame.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sessile_engine::Engine;

use super::*;
use crate::layer::SessionLayer;

enum Shop {}
enum Admin {}

fn marker<M: 'static>() -> TypeId {
    TypeId::of::<M>()
}

fn shared() -> Arc<Shared> {
    marked::<Shop>()
}

fn marked<M: 'static>() -> Arc<Shared> {
    SessionLayer::new(Engine::builder().in_memory().unwrap()).marker::<M>().into_shared()
}

fn frame(shared: &Arc<Shared>) -> Option<Frame> {
    Some(Frame::local(Arc::clone(shared)))
}

/// Runs `f` with the frame of `slot` on the stack.
fn enter<R>(slot: &mut Option<Frame>, f: impl FnOnce() -> R) -> R {
    let _entered = super::enter(slot);
    f()
}

fn depth() -> usize {
    STACK.with(|stack| stack.borrow().len())
}

/// The layer that a lookup finds, by the address of its configuration.
fn found<M: 'static>() -> Option<*const Shared> {
    match Source::in_scope(marker::<M>())? {
        Found::Source(source) => Some(std::ptr::from_ref(source.shared())),
        Found::Session(_) => panic!("nothing was loaded"),
    }
}

fn load<M: 'static>(engine: &Engine) -> Live {
    match Source::in_scope(marker::<M>()).unwrap() {
        Found::Session(live) => live,
        Found::Source(source) => {
            if let Some(live) = source.consult(transport::fingerprint([])) {
                return live;
            }
            match source.settle(new_session(engine)) {
                Settled::Kept(live) => live,
                _ => panic!("the frame was unasked"),
            }
        }
    }
}

fn new_session(engine: &Engine) -> Live {
    let mut begin = std::pin::pin!(engine.session(None));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match begin.as_mut().poll(&mut cx) {
        std::task::Poll::Ready(session) => session.unwrap(),
        std::task::Poll::Pending => panic!("a session without a token is ready at once"),
    }
}

#[test]
fn a_frame_is_on_the_stack_exactly_while_its_scope_runs() {
    let shared = shared();
    let mut slot = frame(&shared);
    assert_eq!(found::<Shop>(), None);
    for _ in 0..3 {
        enter(&mut slot, || {
            assert_eq!(found::<Shop>(), Some(Arc::as_ptr(&shared)));
            assert_eq!(found::<Admin>(), None);
        });
        assert_eq!((depth(), slot.is_some()), (0, true));
    }
    assert_eq!(enter(&mut None, depth), 0, "an empty slot enters nothing and takes nothing away");
}

#[test]
fn a_panic_puts_every_frame_back_into_its_own_slot() {
    let (outer, inner) = (shared(), shared());
    let mut slots = (frame(&outer), frame(&inner));
    for _ in 0..3 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            enter(&mut slots.0, || {
                enter(&mut slots.1, || {
                    assert_eq!(depth(), 2);
                    std::panic::resume_unwind(Box::new("handler"));
                })
            })
        }));
        assert!(result.is_err());
        assert_eq!(depth(), 0);
        assert!(Arc::ptr_eq(&slots.0.as_ref().unwrap().shared, &outer));
        assert!(Arc::ptr_eq(&slots.1.as_ref().unwrap().shared, &inner));
    }
}

#[test]
fn markers_live_side_by_side_and_the_innermost_of_one_counts() {
    let (a, b, c) = (shared(), marked::<Admin>(), shared());
    let (mut shop, mut admin, mut nested) = (frame(&a), frame(&b), frame(&c));
    enter(&mut shop, || {
        enter(&mut admin, || {
            assert_eq!((found::<Shop>(), found::<Admin>()), (Some(Arc::as_ptr(&a)), Some(Arc::as_ptr(&b))));
            enter(&mut nested, || assert_eq!(found::<Shop>(), Some(Arc::as_ptr(&c))));
            assert_eq!(found::<Shop>(), Some(Arc::as_ptr(&a)));
        });
    });
}

#[test]
fn the_same_layer_inside_borrows_and_leaves_the_commit_to_the_owner() {
    let engine = Engine::builder().in_memory().unwrap();
    let layer = SessionLayer::new(engine.clone()).marker::<Shop>();
    let (mut outer, mut inner) = (frame(&layer.clone().into_shared()), frame(&layer.into_shared()));
    enter(&mut outer, || {
        load::<Shop>(&engine).put("from", "outer").unwrap();
        enter(&mut inner, || {
            assert_eq!(load::<Shop>(&engine).get::<String>("from").unwrap().as_deref(), Some("outer"));
        });
    });
    let inner = inner.unwrap().finish();
    assert!(inner.session.is_none() && !inner.consulted);
    let outer = outer.unwrap().finish();
    assert!(outer.session.is_some() && outer.consulted);
}

#[test]
fn a_layer_over_another_engine_borrows_nothing() {
    let (one, two) = (shared(), shared());
    let (mut outer, mut inner) = (frame(&one), frame(&two));
    enter(&mut outer, || {
        load::<Shop>(&one.engine).put("from", "outer").unwrap();
        enter(&mut inner, || {
            assert_eq!(load::<Shop>(&two.engine).get::<String>("from").unwrap(), None);
        });
    });
    assert!(inner.unwrap().finish().session.is_some());
}

#[test]
fn after_the_head_a_frame_gives_out_no_session_and_takes_none() {
    let shared = shared();
    let mut slot = frame(&shared);
    enter(&mut slot, || drop(load::<Shop>(&shared.engine)));
    assert!(slot.as_mut().unwrap().finish().session.is_some());
    enter(&mut slot, || match Source::in_scope(marker::<Shop>()) {
        Some(Found::Source(source)) => {
            assert!(matches!(source.settle(new_session(&shared.engine)), Settled::Late(_)));
            assert!(matches!(source.settle(new_session(&shared.engine)), Settled::Late(_)));
        }
        _ => panic!("the frame is found, without a session"),
    });
    assert!(slot.unwrap().finish().session.is_none());
}

//! The security checklist, row by row: tokens (T), cookies (C), life (L), requests and responses (H), abuse (D).
//! The rows come from the OWASP Session Management Cheat Sheet, ASVS 5.0, NIST SP 800-63B-4 and RFC 6265bis; what each
//! asks for and how far sessile goes is in `docs/security.md`. A row is proven by the tests named here, of which those of
//! this program begin with its name, or it is not ours. `pages.rs` checks that list, page and sources agree.
//!
//! | row | what | tests |
//! |---|---|---|
//! | T1 | at least 128 bits from a CSPRNG | `engine/src/token/tests.rs::generated_tokens_are_distinct_and_balanced`, `engine/src/token/tests.rs::without_random_bytes_there_is_no_token` |
//! | T2 | the value means nothing | `tests/tests/http/tokens.rs::t2_a_cookie_is_32_random_bytes_and_nothing_else` |
//! | T3 | the value is untrusted input | `tests/tests/http/tokens.rs::t3_what_is_no_token_reaches_no_store`, `engine/src/token/tests.rs::parse_accepts_exactly_what_encode_writes`, `engine/src/token/tests.rs::parse_of_anything` |
//! | T4 | no usable token at rest | `tests/tests/http/quiet.rs::t4_t8_a_whole_life_leaves_no_token_behind`, `tests/tests/playground.rs::no_token_is_in_the_file`, `engine/src/token/tests.rs::nothing_prints_a_token`, `engine/src/token/tests.rs::dropping_overwrites_the_bytes` |
//! | T5 | look-ups tell nothing by their timing | `tests/tests/http/tokens.rs::t5_tokens_are_found_by_hash_and_never_compared` |
//! | T6 | a repeated random value harms nobody | `engine/src/session/commit/tests.rs::t6_a_token_that_is_in_use_is_not_issued_again`, `engine/src/store/conformance/change.rs::insert_never_overwrites` |
//! | T7 | no token in URLs or bodies | `tests/tests/http/quiet.rs::t7_no_answer_has_a_token_outside_set_cookie`, `middleware/tests/transports.rs::a_header_carries_the_token_both_ways_and_no_cookie_is_set` |
//! | T8 | logs tell sessions apart without their ids | `tests/tests/http/quiet.rs::t4_t8_a_whole_life_leaves_no_token_behind`, `middleware/tests/audit.rs::a_whole_life_is_audited_and_counted_and_nothing_secret_is_said` |
//! | C1 | `Secure` | `middleware/tests/cookies.rs::c1_c3_c4_c11_the_default_cookie_is_secure_http_only_lax_and_neutral`, `middleware/src/cookie/policy/tests.rs::the_default_is_the_safe_one_and_would_pass_its_own_check` |
//! | C2 | `__Host-` prefix | `middleware/src/cookie/policy/tests.rs::exactly_what_browsers_keep_is_accepted`, `middleware/tests/cookies.rs::c2_c5_prefixed_and_partitioned_cookies_carry_what_they_need` |
//! | C3 | `HttpOnly` | `middleware/tests/cookies.rs::c1_c3_c4_c11_the_default_cookie_is_secure_http_only_lax_and_neutral` |
//! | C4 | `SameSite` | `middleware/tests/cookies.rs::c1_c3_c4_c11_the_default_cookie_is_secure_http_only_lax_and_neutral`, `middleware/src/cookie/policy/tests.rs::each_rule_names_itself` |
//! | C5 | `Partitioned` needs `Secure` | `middleware/tests/cookies.rs::c2_c5_prefixed_and_partitioned_cookies_carry_what_they_need`, `middleware/src/cookie/policy/tests.rs::each_rule_names_itself` |
//! | C6 | at most 400 days | `middleware/tests/cookies.rs::c6_max_age_is_whole_seconds_between_one_and_400_days`, `middleware/src/cookie/write/tests.rs::a_life_is_cut_to_400_days_in_both_attributes_and_never_ends_at_once`, `middleware/src/cookie/write/tests.rs::no_duration_and_no_date_panics` |
//! | C7 | the cookie is not the timeout | `tests/tests/http/life.rs::c7_a_cookie_that_is_kept_opens_nothing_after_the_deadline`, `middleware/tests/cookies.rs::c7_an_unknown_cookie_is_nobody_whatever_the_browser_kept` |
//! | C8 | gone with the browser | `middleware/tests/cookies.rs::c8_a_browser_session_cookie_names_no_time`, `engine/tests/life.rs::persistence_is_delivered_when_it_changes` |
//! | C9 | sizes and characters | `middleware/tests/cookies.rs::c9_the_largest_cookie_is_far_below_the_limit`, `middleware/src/cookie/policy/tests.rs::no_name_path_or_domain_breaks_out_of_its_place` |
//! | C10 | the removal matches the cookie | `middleware/tests/cookies.rs::c10_the_removal_has_the_attributes_of_the_cookie`, `middleware/src/cookie/write/tests.rs::a_removal_has_the_attributes_of_the_issue` |
//! | C11 | a neutral name | `middleware/tests/cookies.rs::c1_c3_c4_c11_the_default_cookie_is_secure_http_only_lax_and_neutral` |
//! | L1 | unknown ids are never adopted | `tests/tests/http/life.rs::l1_an_id_that_was_not_issued_is_never_adopted`, `engine/tests/session/main.rs::p5_a_token_we_did_not_issue_is_never_adopted` |
//! | L2 | a new id at login | `tests/tests/http/life.rs::l2_a_login_changes_the_token_and_kills_the_old_one`, `engine/tests/owner.rs::a_login_is_owner_renewal_and_time_in_one` |
//! | L3 | an ended id stays dead under concurrency | `engine/src/shuttle_tests.rs::shuttle_destroy_is_final`, `engine/src/shuttle_tests.rs::shuttle_revoke_against_load`, `engine/src/shuttle_tests/renew.rs::shuttle_renew_moves_everything_and_kills_the_old_token`, `engine/src/shuttle_life.rs::shuttle_a_renewal_against_a_rotation_leaves_no_old_token`, `tests/tests/races.rs::a_destroyed_session_never_comes_back`, `tests/tests/races.rs::a_renewed_sessions_old_token_never_comes_back` |
//! | L4 | a renewal never loses the session | `tests/tests/http/life.rs::l4_a_renewal_never_loses_the_session`, `engine/tests/faults/hanging.rs::p4_a_renewal_can_be_dropped_at_any_time`, `middleware/tests/layer.rs::a_dropped_request_renews_nothing` |
//! | L5 | idle timeout | `tests/tests/http/life.rs::l5_an_idle_session_ends_and_its_use_is_rarely_written`, `engine/tests/session/time.rs::idle_uses_survive_a_restart` |
//! | L6 | absolute timeout | `tests/tests/http/life.rs::l6_only_who_proves_who_they_are_gets_a_new_deadline`, `engine/tests/session/main.rs::rotate_keeps_the_deadline` |
//! | L7 | renewal by age | `tests/tests/http/life.rs::l7_a_token_is_replaced_by_age_and_the_old_one_dies_after_the_grace`, `engine/tests/rotate.rs::parallel_requests_at_the_rotation_all_succeed_and_one_token_is_issued`, `engine/tests/rotate.rs::the_old_token_works_for_the_grace_and_gets_no_other` |
//! | L8 | logout ends the session on the server | `tests/tests/http/life.rs::l8_the_row_is_gone_when_the_answer_to_the_logout_is_there`, `engine/tests/session/durability.rs::p7_destroy_and_renew_are_stored_at_every_level`, `tests/tests/kill.rs::kill_9_under_load_loses_no_more_than_a_window` |
//! | L9 | logout everywhere | `tests/tests/http/life.rs::l9_one_request_logs_its_user_out_everywhere`, `engine/tests/owner.rs::destroy_all_ends_the_owners_sessions_everywhere_and_for_good`, `engine/src/shuttle_owner_tests.rs::shuttle_destroy_all_catches_a_session_that_is_renewed` |
//! | L10 | a limit of concurrent sessions | `engine/tests/owner.rs::racing_logins_on_threads_never_exceed_the_limit`, `engine/tests/owner.rs::the_oldest_login_makes_room`, `engine/src/shuttle_owner_tests.rs::shuttle_racing_logins_keep_the_limit` |
//! | L11 | a fresh proof for sensitive actions | `tests/tests/http/life.rs::l11_a_sensitive_route_asks_for_a_fresh_proof` |
//! | L12 | half-open sessions (second factor) | not ours: which proofs make a login is the application's; call `login` after the last of them |
//! | L13 | binding to properties of the client | not ours: addresses and user agents change in honest use, so what to do about it is the application's |
//! | L14 | users see their sessions | `tests/tests/http/life.rs::l14_users_see_their_own_sessions_and_no_token`, `engine/tests/owner.rs::a_listing_tells_what_a_page_of_logins_needs` |
//! | L15 | observers cannot stop an end | `tests/tests/http/life.rs::l15_a_session_is_dead_before_its_observers_hear_of_it_and_whatever_they_do`, `engine/tests/session/main.rs::events_are_told_and_a_panicking_observer_stops_nothing` |
//! | L16 | the end is in the record | `tests/tests/http/life.rs::l16_a_session_ends_at_its_own_deadline_whatever_the_settings_say_later` |
//! | H1 | `Vary: Cookie` whenever the session was asked for | `tests/tests/http/exchange.rs::h1_whatever_a_handler_asks_of_its_session_varies_the_answer`, `middleware/src/headers/tests.rs::vary_is_merged` |
//! | H2 | responses with our cookie are not replayed | `tests/tests/http/exchange.rs::h2_no_cache_hands_one_users_cookie_to_another`, `tests/tests/http/exchange.rs::h2_a_cache_that_ignores_the_rules_would_be_caught`, `middleware/src/headers/tests.rs::cache_control_is_merged` |
//! | H3 | several cookies of our name | `tests/tests/http/exchange.rs::h3_of_several_cookies_the_first_live_one_counts`, `middleware/src/cookie/read/tests.rs::planted_cookies_stand_beside_ours_in_any_order_and_splitting`, `middleware/tests/layer.rs::the_live_cookie_is_found_among_planted_ones` |
//! | H4 | names are compared as bytes | `middleware/src/cookie/read/tests.rs::only_the_exact_name_counts_and_nothing_is_decoded` |
//! | H5 | oversized cookies | `tests/tests/http/exchange.rs::h5_more_cookies_than_the_budget_are_not_looked_at`, `middleware/src/cookie/read/tests.rs::a_request_at_the_budget_is_read_and_one_beyond_it_is_not`, `middleware/src/cookie/read/tests.rs::work_is_linear_in_the_bytes_and_bounded` |
//! | H6 | one `Set-Cookie`, whatever the response | `tests/tests/http/exchange.rs::h6_one_cookie_whatever_the_response`, `middleware/tests/streaming.rs::bodiless_responses_carry_the_same_headers`, `middleware/tests/streaming.rs::an_interim_response_carries_nothing_and_the_final_one_everything`, `middleware/tests/streaming.rs::a_redirect_carries_the_cookie` |
//! | H7 | late changes are not silent | `middleware/tests/streaming.rs::a_body_is_never_buffered_and_late_writes_persist`, `middleware/tests/streaming.rs::a_session_cannot_begin_after_its_head` |
//! | H8 | a failing store fails closed | `middleware/tests/faults.rs::a_failed_load_is_a_503_and_never_an_empty_session`, `middleware/tests/faults.rs::a_failed_commit_replaces_the_whole_response_once`, `middleware/tests/faults.rs::serve_empty_refuses_every_change_and_leaves_the_cookie_alone` |
//! | H9 | a damaged record locks nobody out | `middleware/tests/faults.rs::a_damaged_record_gives_a_fresh_session_or_one_500`, `engine/tests/faults/failing.rs::a_damaged_row_is_quarantined_and_nothing_else_suffers` |
//! | H10 | CSRF | not ours: use a layer that checks `Origin` or `Sec-Fetch-Site`, or one with tokens, which can keep its secret in the session |
//! | H11 | HSTS, CSP | not ours: they are about the whole site |
//! | H12 | panics in handlers | `tests/tests/http/exchange.rs::h12_panics_lose_nothing_and_block_nobody`, `middleware/tests/layer.rs::a_panic_publishes_no_session_and_leaves_no_scope`, `middleware/tests/tower.rs::a_panic_is_caught_above_or_below` |
//! | D1 | nothing for sessions nobody writes to | `tests/tests/http/abuse.rs::d1_strangers_who_write_nothing_leave_nothing`, `engine/tests/session/main.rs::p6_nothing_exists_until_the_first_write` |
//! | D2 | floods of new sessions | `tests/tests/http/abuse.rs::d2_a_flood_of_strangers_costs_no_owner_a_session`, `engine/tests/anonymous.rs::a_flood_evicts_only_its_like`, `engine/tests/anonymous.rs::an_engine_without_a_store_refuses_only_their_like` |
//! | D3 | the size of a session | `tests/tests/http/abuse.rs::d3_the_call_that_would_exceed_a_limit_fails_and_the_rest_stands`, `engine/src/record/tests.rs::limits_hold_to_the_byte` |
//! | D4 | chosen collisions | `tests/tests/http/abuse.rs::d4_a_record_has_so_few_keys_that_no_choice_of_them_is_costly`, `engine/src/record/tests.rs::a_body_has_one_valid_form` |
//! | D5 | guessing | `tests/tests/http/abuse.rs::d5_every_guess_is_told` |
//! | D6 | many requests on one session | `tests/tests/http/abuse.rs::d6_a_thousand_requests_on_one_session_all_get_through`, `tests/tests/races.rs::every_increment_counts_once` |
//! | D7 | many expiries at once | `engine/src/wheel/tests.rs::a_big_slot_is_spread_in_slices`, `engine/src/wheel/tests.rs::a_jump_costs_as_much_as_the_items_it_passes` |
//! | D8 | lengths in stored bytes | `engine/src/record/tests.rs::damage_under_a_right_tag_never_panics`, `engine/src/record/tests.rs::random_bytes_never_panic`, `engine/src/record/tests.rs::malformed_values_under_a_right_tag_are_refused` |

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

mod abuse;
mod exchange;
mod life;
mod pages;
mod quiet;
mod support;
mod tokens;
mod wire;

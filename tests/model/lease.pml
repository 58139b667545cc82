// SPDX-License-Identifier: MIT

// This is a model of one key of a fleet: the lease, the inboxes and the outcomes of a redis::Group.
// Processes ask, lead, follow, forget and die. Connections are cut, pushes are lost, and the server
// loses its memory. SPIN explores all interleavings of these steps. Run it with
//
//   tests/model/check                     # EVIDENCE_LONG=1 adds the larger configurations
//
// Modelled: each `atomic` in a `do` is a step. A step is what the server does in one script, or
// what a process does when it reads an answer or a push. PROCESSES processes have ASKS local calls
// each, with a new token each. A process starts its next local call once the last one has landed
// for its callers or was forgotten, so its newcomers ask while an older call of it still runs or
// publishes. Each process has two connections, so a push may overtake the answer to a command, or
// the other way round. Pushes may also overtake each other. In all, MISHAPS of the KINDS below
// happen, at any step.
//
// Not modelled: other keys, tags, nodes, durations and the bytes of a payload. Callers that join a
// local call are part of it. A renewal changes nothing while the lease is there, so it is a step
// only where it has something to learn. An execution without a lease is one step. FORGET and its
// answer are one step. A command that is cut off before the server has run it is run when it is
// sent again, so that is no step either. A TAKE whose answer was lost is sent again at once. A late
// RENEW comes neither after the outcome has expired nor to a server that has lost its memory.
//
// The assertions say what must hold:
//
// - At most one execution at a time for one key, among the calls that are not forgotten, unless a
//   mishap of ONE_EXECUTION has happened. At most one execution for each local call.
// - A call gets only an outcome that was published after it asked, and whose call was forgotten
//   after it asked, if at all. It gets none that has landed in its own process before.
// - A call that waits for a call in flight stays on it. Once an outcome is published, those that
//   wait for it get it, unless a mishap of KEPT has happened.
// - New callers do not join a call that the process knows to be forgotten, nor one that waits for
//   such a call.
// - A live process leaves no lease behind, unless a late command or another server has made it.
//
// A process that waits for ever is found as an invalid end state. Only the lease of a dead process
// expires, unless a live one stalls. So nobody waits for a lease to expire that a live process does
// not hold. A follower asks again every `linger`/2, but here only if the answer has something new
// to say. With TICK=0, it does not ask again by time, unless the lease that it follows has expired.
// Processes differ only by number, so the model explores only executions in which their first steps
// come in the order of their numbers.
//
// What keeps these promises, beside the scripts: a call that has landed or has no callers gives
// back the lease that a late answer brings, or may have brought. While a process waits for the
// answer to a TAKE, it remembers which pushes have come. Tokens of a process are in the order of
// its calls, so TAKE puts aside only leases of older ones. Whether a lease, an outcome, a push or a
// PUBLISH are for one and the same lease is seen by its fence. A leader makes no lease again that
// has expired by its own clock, that another one had meanwhile, or that it knows to be forgotten.
// RENEW is not sent again. Followers have the process that is named in a lease look whether it
// holds it. If it does not, and waits for no answer, it ends the lease.
//
// FAULT_... plants a fault in the model. Each fault must be found.

// The bits of KINDS are the mishaps.
#define FORGET 1     // the key is forgotten, by a process of the fleet or by an outsider
#define EXPIRE 2     // the lease of a live process expires, because it has stalled
#define CRASH 4      // a process dies, and another one has its remaining calls
#define LOSE 8       // the answer to a command is cut off, so the command is sent again
#define LATE 16      // the server runs a copy of a command at any later time
#define FLUSH 32     // the server loses its memory
#define LEAVE 64     // all callers of a local call leave, but `fn` continues
#define REFUSE 128   // the server refuses to keep an outcome, or it cannot be sent
#define LINGER 256   // an outcome expires before all that wait for it have read it
#define CUT 512      // the subscription is cut, and the pushes on their way to it are lost
#define OUTAGE 1024  // a process does not wait for the answer to TAKE, and runs `fn` by itself
#define RESTORE 2048  // another server takes its place, and has a lease that has ended
// It is not a mishap if the lease of a dead process expires, or an outcome that nobody waits for.

#ifndef KINDS
#define KINDS 4095
#endif
#ifndef MISHAPS
#define MISHAPS 0
#endif
#ifndef ASKS
#define ASKS 1
#endif
#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifdef FAULT_not_asked_again_in_time
#define TICK 0
#endif
#ifndef TICK
#define TICK 1
#endif

#ifndef LARGE
#define LARGE 0  // 1: values are too large for a push
#endif

#define TOKENS (PROCESSES * ASKS)
#define NONE 0  // no token or no process: both are numbered from 1
#define PROCESS(token) ((token - 1) % PROCESSES + 1)
#define BIT(number) (1 << (number - 1))  // for sets of tokens or of processes
#define MAY(kind) (mishaps > 0 && (KINDS & kind))
// Only these may make two processes execute at the same time for calls that are not forgotten.
#define ONE_EXECUTION ((KINDS & (EXPIRE | LATE | FLUSH | REFUSE | OUTAGE | RESTORE)) == 0)

// Only these may take a published outcome from those that wait for it.
#define KEPT ((KINDS & (EXPIRE | LATE | FLUSH | REFUSE | LINGER | OUTAGE | RESTORE)) == 0)

// What a leader publishes, what a push says, and what an outcome on the server is.
#define UNSET 0
#define VALUE 1
#define ABANDONED 2     // nobody executes any more: take the lease
#define RUN_YOURSELF 3  // the outcome cannot be had: execute without a lease
#define ASK 4           // only in a push: the value is too large for it

// The answers of TAKE are these, or the outcome of the call that is waited for.
#define LEAD 5
#define FOLLOW 6
#define FOLLOW_FORGOTTEN 7  // follow a call that was forgotten
#define LEAD_FORGOTTEN 8    // this call was forgotten

// The states of a local call.
#define IDLE 0
#define ASKING 1      // the answer to TAKE was lost, so TAKE is to be sent again
#define ANSWERED 2    // the answer to TAKE is on its way
#define FOLLOWING 3   // waits for a push
#define LEADING 4     // executes with a lease
#define PUBLISHING 5  // PUBLISH is to be sent, for the first time or again
#define OVER 6
#define DEAD 7

#define HOLDS(token) (call[token].answer == LEAD || call[token].answer == LEAD_FORGOTTEN)
#define UNANSWERED(token) (call[token].state == ASKING || call[token].state == ANSWERED)

// The commands that can be late.
#define TAKE 1
#define RENEW 2
#define PUBLISH 3

typedef Call {  // by its token
  // The server has stored these.
  bit forgotten;           // forgotten:TOKEN exists
  unsigned followers : 3;  // the processes in the lease or in forgotten:TOKEN
  unsigned fence : 3;      // the fence in it
  unsigned outcome : 2;    // outcome:TOKEN
  unsigned outcome_fence : 3;
  // These are on their way.
  unsigned pushed : 3;      // the processes to which the outcome is pushed
  unsigned push : 3;        // what the push says
  unsigned push_fence : 3;  // the lease that it is for
  unsigned notice : 3;      // the processes to which "forget TOKEN" is pushed
  unsigned notice_fence : 3;
  unsigned disowned : 3;    // the fence that a process names which ends a lease that it has not got
  unsigned late : 2;        // a copy of a command that the server has not run
  byte late_says;           // the token that a late TAKE waits for, or what a late PUBLISH says
  unsigned late_fence : 3;  // the fence that it names
  // The process has these.
  unsigned state : 3;
  byte waited;              // the token that it waits for
  unsigned answer : 4;      // of TAKE, on its way
  unsigned waited_fence : 3;
  byte holder;              // the token in this answer
  bit overtaken;            // a push about the lease in this answer came before it was read
  bit overtaken_forgotten;  // one that says that its call was forgotten
  bit landed;               // nobody waits for it, but an answer to TAKE is on its way
  bit due;                  // it is to ask again at once
  unsigned payload : 2;     // what it publishes
  unsigned known : 3;       // the fence in the answer, then of its own lease. 0: unknown
  bit lost;                 // another one has its lease, or it was forgotten: no renewal
  // These are facts. Only the assertions use most of them.
  unsigned made : 3;     // how many leases TAKE has made for it
  bit ran;               // it has executed
  bit expired;           // its lease has expired, which the clock of its process says, too
  bit stray;             // a late command has made its lease
  bit was_forgotten;     // a Forget has met it
  bit closed;            // it was forgotten or has landed, so `asked` gets no new calls
  unsigned asked : 6;    // the calls that may get its outcome
  unsigned noticed : 3;  // the processes that know that it was forgotten
};

Call call[TOKENS + 1];             // call[NONE] stays empty
byte lease = NONE;                 // the token that holds it
byte current[PROCESSES + 1];       // the local call that newcomers join
bit deaf[PROCESSES + 1];           // the subscription is cut
byte mishaps = MISHAPS;
byte started = 0;
byte over = 0;
unsigned owed : 6;    // the calls that waited when the value that they wait for was published
unsigned asking : 6;  // the calls whose callers wait; only the assertions use it

#define EXISTS(token) (lease == token || call[token].forgotten)
#ifdef FAULT_fence_not_compared
#define IS_HELD(token, of_fence) EXISTS(token)
#else
#define IS_HELD(token, of_fence) \
  (EXISTS(token) && (of_fence == 0 || call[token].fence == of_fence))
#endif
#define FOLLOWED(token, of_fence, process) \
  (IS_HELD(token, of_fence) && (call[token].followers & BIT(process)))
// The lease is that of an older call of the same process. One that has died had another inbox.
#ifdef FAULT_newer_of_own_replaced
#define OLDER(token) (lease != token)
#else
#define OLDER(token) (lease < token)
#endif
#define OLDER_OF_OWN(token, process)                             \
  (lease != NONE && OLDER(token) && PROCESS(lease) == process && \
   (call[lease].state == DEAD) == (call[token].state == DEAD))
#define HAS_OUTCOME(token, of_fence) \
  (call[token].outcome != UNSET && OUTCOME_FENCE(token, of_fence))
#ifdef FAULT_outcome_without_fence
#define OUTCOME_FENCE(token, of_fence) true
#else
#define OUTCOME_FENCE(token, of_fence) (call[token].outcome_fence == of_fence)
#endif
// Newcomers of `process` would join `token`, although the process knows that what it waits for was
// forgotten.
#define KNOWN_FORGOTTEN(token, process, holder)                                      \
  (current[process] == token && call[holder].was_forgotten && !call[holder].stray && \
   (call[holder].ran || call[holder].forgotten) && (call[holder].noticed & BIT(process)))
#define IS_THE_EXECUTION(token) \
  (call[token].state == LEADING && current[PROCESS(token)] == token && !call[token].was_forgotten)
#define OTHER_ANSWERED(token) \
  (ASKS > 1 &&                \
   call[(token > PROCESSES -> token - PROCESSES : TOKENS - PROCESSES + token)].state == ANSWERED)
#define PREVIOUS(token) (token > PROCESSES -> token - PROCESSES : NONE)
#define MAY_START(token, process)                                 \
  (call[token].state == IDLE && current[process] == NONE &&       \
   ((token > PROCESSES && call[PREVIOUS(token)].state != IDLE) || \
    (token <= PROCESSES && started + 1 >= token)))
#ifdef FAULT_not_asked_again_when_lease_ends
#define LEASE_ENDED(token, of_fence) false
#else
#define LEASE_ENDED(token, of_fence) (call[token].expired && !IS_HELD(token, of_fence))
#endif
#define MAY_ASK_AGAIN(token, process)                                               \
  (call[token].state == FOLLOWING &&                                                \
   (call[token].due || LEASE_ENDED(call[token].waited, call[token].waited_fence) || \
    (TICK && (EXISTS(token) ||                                                      \
              !FOLLOWED(call[token].waited, call[token].waited_fence, process)))))
// The process of `token` hears the question whether it holds its lease, and does not.
#ifdef FAULT_held_lease_disowned
#define LISTED(token) false
#else
#define LISTED(token)                                                   \
  ((call[token].state == LEADING || call[token].state == PUBLISHING) && \
   (call[token].known == 0 || call[token].known == call[token].fence))
#endif
#ifdef FAULT_disowned_before_the_answer
#define TAKES(process) false
#else
#define TAKES(process) \
  (UNANSWERED(process) || (ASKS > 1 && UNANSWERED(TOKENS - PROCESSES + process)))
#endif
#define MAY_DISOWN(token)                                                          \
  (call[token].state != DEAD && !deaf[PROCESS(token)] && !TAKES(PROCESS(token)) && \
   !LISTED(token))
#define HEARS(process) (deaf[process] -> 0 : BIT(process))
#define HEARING (HEARS(1) | HEARS(2) | HEARS(PROCESSES))

// ---- The server

inline MakeLease(t) {
  assert(lease == NONE);  // nobody else's lease is replaced
  lease = t; call[t].followers = 0; call[t].made++; call[t].fence = call[t].made
}

inline Delete(t) {
  lease = (lease == t -> NONE : lease);
  call[t].forgotten = 0; call[t].followers = 0
}

// The script of TAKE of process `me` for token t, which waits for the outcome of `waits`, whose
// lease has fence `named`.
inline TakeScript(t, me, waits, named, answers, holds, fence_of) {
  if
#ifdef FAULT_outcome_before_own_lease
  :: HAS_OUTCOME(waits, named) -> answers = call[waits].outcome; holds = waits
  :: EXISTS(t) && !HAS_OUTCOME(waits, named) -> answers = LEAD; fence_of = call[t].fence
#else
#ifndef FAULT_own_lease_not_known
  :: lease == t -> answers = LEAD; fence_of = call[t].fence
#endif
#ifndef FAULT_own_forgotten_lease_not_known
  :: call[t].forgotten -> answers = LEAD_FORGOTTEN; fence_of = call[t].fence
#endif
#endif
  :: call[t].outcome != UNSET -> answers = UNSET  // t has landed: nobody waits for this answer
  :: else ->
    if
#ifndef FAULT_outcome_not_looked_for
    :: HAS_OUTCOME(waits, named) -> answers = call[waits].outcome; holds = waits
#endif
#ifndef FAULT_forgotten_not_followed
    :: call[waits].forgotten && call[waits].fence == named ->
      call[waits].followers = call[waits].followers | BIT(me);
      answers = FOLLOW_FORGOTTEN; holds = waits; fence_of = call[waits].fence
#endif
    :: else ->
      // Who is on a call stays on it.
      assert(!HAS_OUTCOME(waits, named) && !(call[waits].forgotten && call[waits].fence == named));
      if
      :: lease == NONE -> MakeLease(t); answers = LEAD; fence_of = call[t].fence
#ifndef FAULT_own_older_lease_followed
      :: OLDER_OF_OWN(t, me) ->
        // The process has landed or forgotten this call. Its followers stay.
        assert(current[me] != lease);
        call[lease].forgotten = 1; lease = NONE;
        MakeLease(t); answers = LEAD; fence_of = call[t].fence
#endif
#ifdef FAULT_take_without_nx
      :: lease != NONE -> MakeLease(t); answers = LEAD; fence_of = call[t].fence
#endif
      :: else ->
#ifndef FAULT_not_registered_by_take
        call[lease].followers = call[lease].followers | BIT(me);
#endif
        answers = FOLLOW; holds = lease; fence_of = call[lease].fence
      fi
    fi
  fi
}

// What the script of RENEW does if it does not find the lease of t with fence `knows`.
inline RemakeLease(t, knows) {
  if
#ifdef FAULT_renew_remakes_over_another
  :: lease != NONE -> MakeLease(t)
#endif
#ifdef FAULT_renew_remakes_landed
  :: lease == NONE && knows != 0 ->
#else
  :: lease == NONE && knows != 0 && call[t].outcome == UNSET ->
#endif
    lease = t; call[t].followers = 0; call[t].fence = knows
  :: else
  fi
}

// From now on, nobody who asks gets the outcome of t.
inline CloseCall(t) {
  i = 1; named = 0;
  do
  :: i <= TOKENS ->
    named = named | (call[i].waited == t || call[i].holder == t -> BIT(i) : 0);
    i++
  :: else -> break
  od;
  i = 0;
  // A late command may let others follow it.
  named = (call[t].late != 0 || MAY(LATE) -> asking : asking & named);
  call[t].asked = (call[t].closed -> call[t].asked & named : named); call[t].closed = 1;
  named = 0
}

// The script of PUBLISH of `says` for token t, whose process was given the fence `knows`, or has
// not heard of it.
inline PublishScript(t, says, knows) {
  if
#ifdef FAULT_publish_without_compare
  :: !EXISTS(t) && lease != NONE ->
    call[t].push = says; call[t].outcome = says; call[t].pushed = call[lease].followers & HEARING;
    Delete(lease)
  :: !EXISTS(t) && lease == NONE
#else
  // It is too late, PUBLISH was run before, or a late command has made this lease: its followers
  // may have asked after t had landed. Those who still wait for t find its outcome.
  :: !IS_HELD(t, knows) && knows != 0 && call[t].outcome == UNSET ->
    CloseCall(t);
    if
    :: call[t].asked != 0 || call[t].late != 0 ->
      call[t].outcome = says; call[t].outcome_fence = knows
    :: else  // it expires before anything else happens
    fi
  :: !IS_HELD(t, knows) && (knows == 0 || call[t].outcome != UNSET)
#endif
  :: IS_HELD(t, knows) ->
    call[t].push = says;
#ifndef FAULT_followers_read_after_delete
    call[t].pushed = call[t].followers;
#endif
#ifndef FAULT_lease_not_deleted
    Delete(t);
#endif
    CloseCall(t);
    i = 1;
    do
    :: i <= TOKENS ->
      owed = owed | (KEPT && call[t].push == VALUE && (call[i].state == FOLLOWING ||
                     UNANSWERED(i)) && call[i].waited == t -> BIT(i) : 0);
      owed = owed | (KEPT && call[t].push == VALUE && call[i].state == ANSWERED &&
                     call[i].holder == t && !call[i].landed -> BIT(i) : 0);
      i++
    :: else -> break
    od;
    i = 0;
    if
#ifdef FAULT_outcome_not_kept_from_late_renewal
    :: call[t].pushed == 0
    :: call[t].pushed != 0 -> call[t].outcome = call[t].push; call[t].outcome_fence = call[t].fence
#elif defined(FAULT_outcome_not_kept)
    :: call[t].pushed == 0 && call[t].late != RENEW
    :: call[t].pushed == 0 && call[t].late == RENEW -> call[t].outcome = call[t].push; call[t].outcome_fence = call[t].fence
    :: call[t].pushed != 0
#else
    :: call[t].pushed == 0 && call[t].late != RENEW
    // If the process has heard no answer to a RENEW, that may come now.
    :: call[t].pushed != 0 || call[t].late == RENEW -> call[t].outcome = call[t].push; call[t].outcome_fence = call[t].fence
#endif
    :: call[t].pushed != 0 && MAY(REFUSE) ->
      mishaps--;
#ifdef FAULT_refused_outcome_not_replaced
      call[t].pushed = 0;
#endif
#ifdef FAULT_replacement_kept_as_value
      call[t].outcome = VALUE; call[t].outcome_fence = call[t].fence; call[t].asked = 0;
#endif
      call[t].push = (call[t].push == VALUE -> RUN_YOURSELF : call[t].push)
    fi;
    call[t].push = (LARGE && call[t].push == VALUE -> ASK : call[t].push);
    call[t].pushed = call[t].pushed & HEARING;
    call[t].push = (call[t].pushed == 0 -> UNSET : call[t].push);
    call[t].push_fence = (call[t].pushed == 0 -> 0 : call[t].fence)
  fi
}

// The script of PUBLISH of nothing for token w: those who follow ask again.
inline DisownScript(w) {
  if
  :: EXISTS(w) && call[w].fence == call[w].disowned ->
    if
    :: call[w].pushed == 0 ->
      call[w].pushed = call[w].followers & HEARING;
      call[w].push = (call[w].pushed == 0 -> UNSET : ASK);
      call[w].push_fence = (call[w].pushed == 0 -> 0 : call[w].fence)
    :: else  // a push is still on its way, so this one is lost
    fi;
    Delete(w)
  :: else
  fi;
  call[w].disowned = 0
}

// ---- What the steps of a process share

// New callers of process `me` do not join call t any more.
inline ForgetLocally(t, me) { current[me] = (current[me] == t -> NONE : current[me]) }

// Merges states that differ only in calls to which nothing can happen any more.
inline Bury() {
  i = 1;
  do
  :: i <= TOKENS ->
    named = named | (1 << call[i].waited) | (1 << call[i].holder);
    call[i].asked = call[i].asked & asking;
    i++
  :: else -> break
  od;
  i = 1;
  do
  :: i <= TOKENS ->
    if
    :: call[i].state >= OVER && call[i].asked == 0 && call[i].late == 0 && !EXISTS(i) &&
        call[i].disowned == 0 && !(named & (1 << i)) ->
      call[i].state = OVER; call[i].fence = 0; call[i].made = 0; call[i].outcome = UNSET;
      call[i].outcome_fence = 0; call[i].pushed = 0; call[i].push = UNSET; call[i].push_fence = 0;
      call[i].notice = 0; call[i].notice_fence = 0; call[i].expired = 0; call[i].stray = 0;
      call[i].was_forgotten = 0; call[i].closed = 1; call[i].noticed = 0
    :: else
    fi;
    i++
  :: else -> break
  od;
  i = 0; named = 0
}

// The process has nothing more to do for call t.
inline End(t, me, how) {
  ForgetLocally(t, me);
  asking = asking & ~BIT(t); owed = owed & ~BIT(t);
  over++;
  call[t].state = how; call[t].waited = NONE; call[t].waited_fence = 0;
  call[t].answer = UNSET; call[t].holder = NONE;
  call[t].landed = 0; call[t].due = 0; call[t].payload = UNSET; call[t].known = 0;
  call[t].lost = 0; call[t].ran = 0;
  assert(how == DEAD || !EXISTS(t) || call[t].stray);  // no live process leaves a lease behind
  Bury()
}

// An answer to a TAKE of call t was lost, which may have brought a lease that nobody needs.
inline GiveBackIfLanded(t) {
  if
  :: call[t].state == ASKING && call[t].landed ->
    call[t].landed = 0; call[t].state = PUBLISHING; call[t].payload = ABANDONED
  :: else
  fi
}

// The callers of call t have got what they wait for, or have left.
inline Land(t, me) {
  ForgetLocally(t, me);
  asking = asking & ~BIT(t); owed = owed & ~BIT(t);
  if
  :: UNANSWERED(t) ->
    call[t].landed = 1; call[t].due = 0; call[t].waited = NONE; call[t].waited_fence = 0;
    GiveBackIfLanded(t)
  :: else -> End(t, me, OVER)
  fi
}

// An execution that starts without a forgotten lease is a new one.
inline BeginAnew(t) {
  if
  :: call[t].was_forgotten ->
    call[t].was_forgotten = 0; call[t].noticed = 0; call[t].closed = 0; call[t].asked = 0
  :: else
  fi
}

// It has heard that its own call was forgotten.
inline ForgetOwn(t, me) {
  ForgetLocally(t, me);
#ifndef FAULT_renew_remakes_forgotten
  call[t].lost = 1
#endif
}

inline Execute(t) {
  assert(!(owed & BIT(t)));  // no outcome is lost
  assert(!call[t].ran);  // one execution for each local call
  call[t].ran = 1
}

// Call t learns what was published for call w. Sets `lands` if that is all.
inline Learn(t, me, w, outcome) {
  if
  :: outcome == VALUE ->
    assert(call[w].asked & BIT(t));  // not a cache, and not a forgotten call
    assert(PROCESS(w) != me || w > t || call[w].state == DEAD);  // not what has landed here
    lands = 1
  :: outcome == RUN_YOURSELF ->
    Execute(t);
    lands = 1
  :: outcome == ABANDONED -> call[t].waited = NONE; call[t].waited_fence = 0; call[t].due = 1
  :: outcome == ASK -> call[t].due = 1
  fi
}

// ---- A local call

proctype Local(byte t; byte me) {
  byte i = 0;
  byte named = 0;
  bit lands = 0;

endLocal:
  do
  // It starts, or asks again: the server runs TAKE.
  :: atomic {
      MAY_START(t, me) ||
          // A connection keeps the order.
          ((call[t].state == ASKING || MAY_ASK_AGAIN(t, me)) && call[t].disowned == 0) ->
      if
      :: call[t].state == IDLE ->
        started = (t <= PROCESSES && started < t -> t : started);
        current[me] = t; asking = asking | BIT(t)
      :: else
      fi;
      call[t].due = 0; call[t].expired = 0;
      if
      :: MAY(LATE) && call[t].late == 0 ->
        mishaps--; call[t].late = TAKE; call[t].late_says = call[t].waited;
        call[t].late_fence = call[t].waited_fence
      :: true
      fi;
      TakeScript(t, me, call[t].waited, call[t].waited_fence, call[t].answer, call[t].holder,
                 call[t].known);
      assert(call[t].answer != UNSET);
      call[t].state = ANSWERED;
      if
      :: lease == t -> BeginAnew(t)
      :: else
      fi
    }
  // The answer to TAKE is lost.
  :: atomic {
      call[t].state == ANSWERED && MAY(LOSE) ->
      mishaps--;
      // The process has not heard of the call in the answer, so it cannot know its outcome.
      owed = (call[t].waited != call[t].holder -> owed & ~BIT(t) : owed);
      call[t].answer = UNSET; call[t].holder = NONE; call[t].known = 0;
      call[t].overtaken = 0; call[t].overtaken_forgotten = 0;
      call[t].state = ASKING;
      GiveBackIfLanded(t)
    }
  // It reads the answer to TAKE.
  :: atomic {
      call[t].state == ANSWERED ->
      call[t].state = FOLLOWING;
      if
      :: HOLDS(t) && !call[t].landed ->
        Execute(t);
        call[t].state = LEADING; call[t].waited = NONE; call[t].waited_fence = 0; call[t].due = 0;
#ifndef FAULT_forgotten_lead_not_said
        if
        :: call[t].answer == LEAD_FORGOTTEN -> ForgetOwn(t, me)
        :: else
        fi;
#endif
#ifndef FAULT_early_notice_to_leader_dropped
        if
        :: call[t].overtaken_forgotten -> ForgetOwn(t, me)
        :: else
        fi;
#endif
        // Now the process has heard both that it leads and that the call was forgotten.
        call[t].noticed = (call[t].was_forgotten && (call[t].answer == LEAD_FORGOTTEN ||
                                                     call[t].overtaken_forgotten) ->
                           call[t].noticed | BIT(me) : call[t].noticed);
        assert(!KNOWN_FORGOTTEN(t, me, t));
        i = 1;
        do
        :: i <= TOKENS ->
          assert(!ONE_EXECUTION || i == t || !IS_THE_EXECUTION(i) || !IS_THE_EXECUTION(t));
          i++
        :: else -> break
        od
      :: HOLDS(t) && call[t].landed ->
#ifdef FAULT_lead_of_landed_executed
        Execute(t);
#endif
#ifdef FAULT_lead_of_landed_kept
        End(t, me, OVER)
#else
        call[t].state = PUBLISHING; call[t].payload = ABANDONED
#endif
      :: !HOLDS(t) && call[t].landed -> End(t, me, OVER)
      :: call[t].answer < LEAD && !call[t].landed ->
        Learn(t, me, call[t].holder, call[t].answer);
        if
        :: lands -> End(t, me, OVER)
        :: else
        fi;
        lands = 0
      :: !HOLDS(t) && call[t].answer > LEAD && !call[t].landed ->
        call[t].waited = call[t].holder; call[t].waited_fence = call[t].known;
#ifndef FAULT_forgotten_not_said
        if
        :: call[t].answer == FOLLOW_FORGOTTEN -> ForgetLocally(t, me)
        :: else
        fi;
#endif
        // This answer is word of it, too. An earlier one for another call is read before it.
        call[call[t].waited].noticed =
            call[call[t].waited].noticed |
            (call[t].answer == FOLLOW_FORGOTTEN && call[call[t].waited].was_forgotten &&
             PROCESS(call[t].waited) != me && !OTHER_ANSWERED(t) -> BIT(me) : 0);
#ifndef FAULT_early_push_dropped
        if
        :: call[t].overtaken -> call[t].due = 1
        :: else
        fi;
#endif
#ifndef FAULT_early_notice_dropped
        if
        :: call[t].overtaken_forgotten -> ForgetLocally(t, me)
        :: else
        fi;
#endif
        assert(!KNOWN_FORGOTTEN(t, me, call[t].waited))
      fi;
      call[t].answer = UNSET; call[t].holder = NONE;
      call[t].overtaken = 0; call[t].overtaken_forgotten = 0; call[t].landed = 0;
      call[t].known = (call[t].state == FOLLOWING -> 0 : call[t].known)
    }
#ifndef FAULT_leader_not_asked
  // It has the process that is named in the lease look whether it holds it, and that one does not.
  // An answer that is on its way to that one may bring the lease, so it waits for it.
  :: atomic {
      call[t].state == FOLLOWING && TICK && IS_HELD(call[t].waited, call[t].waited_fence) &&
          call[call[t].waited].disowned == 0 && MAY_DISOWN(call[t].waited) ->
      call[call[t].waited].disowned = call[call[t].waited].fence
    }
#endif
  // All its callers leave.
  :: atomic {
      (UNANSWERED(t) || call[t].state == FOLLOWING) && !call[t].landed && MAY(LEAVE) ->
      mishaps--; Land(t, me)
    }
  :: atomic {
      call[t].state == LEADING && MAY(LEAVE) ->
      mishaps--;
#ifdef FAULT_abandoned_not_published
      End(t, me, OVER)
#else
      ForgetLocally(t, me);
      asking = asking & ~BIT(t); call[t].state = PUBLISHING; call[t].payload = ABANDONED
#endif
    }
  // It does not wait for the server, and executes without a lease.
  :: atomic {
      call[t].state == FOLLOWING && MAY(OUTAGE) ->
      mishaps--; Execute(t);
      End(t, me, OVER)
    }
  :: atomic {
      UNANSWERED(t) && !call[t].landed && MAY(OUTAGE) ->
      // It may have been given the lease, so others may wait for its outcome.
      mishaps--; Execute(t);
      if
      :: !call[t].forgotten -> BeginAnew(t)
      :: else
      fi;
      owed = owed & ~BIT(t);
      call[t].waited = NONE; call[t].waited_fence = 0; call[t].due = 0;
      call[t].answer = UNSET; call[t].holder = NONE; call[t].known = 0;
      call[t].overtaken = 0; call[t].overtaken_forgotten = 0;
#ifdef FAULT_lease_kept_after_outage
      call[t].state = FOLLOWING; End(t, me, OVER)
#else
      call[t].state = LEADING
#endif
    }
  // RENEW is run, and has something to learn or to do. Its answer may be lost: the answer to a
  // later one says the same, which is the next step.
  :: atomic {
      call[t].state == LEADING && !call[t].lost && (lease != t || !IS_HELD(t, call[t].known)) ->
      if
      :: call[t].forgotten && IS_HELD(t, call[t].known) ->
        ForgetOwn(t, me);
        call[t].noticed = (call[t].was_forgotten -> call[t].noticed | BIT(me) : call[t].noticed)
#ifdef FAULT_renew_remakes_expired
      :: !EXISTS(t) && lease == NONE && call[t].known != 0 -> RemakeLease(t, call[t].known)
#else
      :: !EXISTS(t) && lease == NONE && call[t].known != 0 && !call[t].expired ->
        RemakeLease(t, call[t].known)
      :: !EXISTS(t) && lease == NONE && call[t].known != 0 && call[t].expired -> call[t].lost = 1
#endif
      :: !EXISTS(t) && lease == NONE && call[t].known == 0 -> call[t].lost = 1
#ifdef FAULT_renew_remakes_over_another
      :: !EXISTS(t) && lease != NONE -> MakeLease(t)
#else
      :: !EXISTS(t) && lease != NONE -> call[t].lost = 1
#endif
      // A late command has made this lease.
      :: EXISTS(t) && !IS_HELD(t, call[t].known) -> call[t].lost = 1
      fi
    }
  // A copy of RENEW will be late.
  :: atomic {
      call[t].state == LEADING && !call[t].lost && call[t].known != 0 && MAY(LATE) &&
          call[t].late == 0 ->
      mishaps--; call[t].late = RENEW; call[t].late_fence = call[t].known
    }
  // `fn` returns, and all its callers with it.
  :: atomic {
      call[t].state == LEADING ->
      ForgetLocally(t, me);
      asking = asking & ~BIT(t); call[t].state = PUBLISHING;
      if
      :: call[t].payload = VALUE
      :: MAY(REFUSE) -> mishaps--; call[t].payload = RUN_YOURSELF
      fi
    }
  // The server runs PUBLISH.
  :: atomic {
      call[t].state == PUBLISHING ->
      if
      :: MAY(LATE) && call[t].late == 0 ->
        // It is late, and its sender gives up, because the lease will have expired.
        mishaps--; call[t].late = PUBLISH; call[t].late_says = call[t].payload;
        call[t].late_fence = call[t].known; call[t].stray = 1;
        End(t, me, OVER)
#ifdef FAULT_publish_not_repeated
      :: MAY(LOSE) -> mishaps--; End(t, me, OVER)
#endif
#ifdef FAULT_published_after_expiry
      :: true ->
#else
      // By its clock, the lease is not its own any more, whatever the server has. A PUBLISH that
      // was sent before is late.
      :: call[t].expired -> End(t, me, OVER)
      :: !call[t].expired ->
#endif
        PublishScript(t, call[t].payload, call[t].known);
        if
        :: MAY(LOSE) ->
          mishaps--;
#ifndef FAULT_repeated_without_fence
          // If it was run, and TAKE comes late, the same lease would be another one.
          call[t].payload = (call[t].known == 0 -> ABANDONED : call[t].payload)
#endif
        :: true -> End(t, me, OVER)
        fi
      fi
    }
  od
}

// Merges states that differ only in what is said about pushes that have come or are lost.
inline ClearPushes(w) {
  call[w].push = (call[w].pushed == 0 -> UNSET : call[w].push);
  call[w].push_fence = (call[w].pushed == 0 -> 0 : call[w].push_fence);
  call[w].notice_fence = (call[w].notice == 0 -> 0 : call[w].notice_fence)
}

// ---- What may happen on the way to process p and from it

proctype Process(byte p) {
  byte i = 0;
  byte named = 0;
  byte j = 0;

endProcess:
  do
  // The subscription is cut.
  :: atomic {
      current[p] != NONE && !deaf[p] && MAY(CUT) ->
      mishaps--; deaf[p] = 1;
      j = 1;
      do
      :: j <= TOKENS ->
        call[j].pushed = call[j].pushed & ~BIT(p); call[j].notice = call[j].notice & ~BIT(p);
        ClearPushes(j);
        j++
      :: else -> break
      od;
      j = 0
    }
  // It is back. All that follow ask again, also those that are told to follow only now.
  :: atomic {
      deaf[p] ->
      deaf[p] = 0;
      j = p;
      do
      :: j <= TOKENS ->
#ifdef FAULT_not_asked_again_after_cut
        skip;
#else
        call[j].due = (call[j].state == FOLLOWING ||
#ifndef FAULT_unanswered_not_asked_again
                       (UNANSWERED(j) && !call[j].landed) ||
#endif
                       call[j].due);
#endif
        j = j + PROCESSES
      :: else -> break
      od;
      j = 0
    }
  // It dies. Another process with other connections and another inbox has its remaining calls.
  :: atomic {
      current[p] != NONE && MAY(CRASH) -> goto Crash
    }
  :: atomic {
      call[p].state == PUBLISHING && current[p] == NONE && MAY(CRASH) ->
Crash:
      mishaps--;
      j = p;
      do
      :: j <= TOKENS ->
        if
        :: call[j].state > IDLE && call[j].state < OVER -> End(j, p, DEAD)
        :: else
        fi;
        j = j + PROCESSES
      :: else -> break
      od;
      j = 1;
      do
      :: j <= TOKENS ->
        call[j].followers = call[j].followers & ~BIT(p);
        call[j].pushed = call[j].pushed & ~BIT(p); call[j].notice = call[j].notice & ~BIT(p);
        ClearPushes(j);
        j++
      :: else -> break
      od;
      j = 0; deaf[p] = 0
    }
  od
}

// ---- What may happen to token w in time

// Process p is told that call w was forgotten, whose lease had this fence.
inline Notice(p, w, of_fence) {
  j = p;
  do
  :: j <= TOKENS ->
    if
#ifndef FAULT_notice_ignored
    :: j == w && (call[j].state == LEADING || call[j].state == PUBLISHING) &&
#ifdef FAULT_notice_needs_fence
        call[j].known == of_fence ->
#else
        (call[j].known == 0 || call[j].known == of_fence) ->
#endif
      ForgetOwn(j, p)
    :: call[j].waited == w && call[j].waited_fence == of_fence -> ForgetLocally(j, p)
#endif
    :: else
    fi;
    j = j + PROCESSES
  :: else -> break
  od;
  j = 0
}

// Process p knows now that call w was forgotten. If w is its own, and does not lead so far, the
// answer that makes it lead will say so, too. A lease that a late command has made is not its own.
inline NoteNotice(p, w, of_fence) {
  if
  :: call[w].was_forgotten && call[w].fence == of_fence &&
      (PROCESS(w) != p ||
       (call[w].state > FOLLOWING && (call[w].known == 0 || call[w].known == of_fence))) ->
    call[w].noticed = call[w].noticed | BIT(p);
    assert(current[p] == NONE ||
           (current[p] != w &&
            (call[current[p]].waited != w || call[current[p]].waited_fence != of_fence)))
  :: else
  fi
}

// A push about the lease of token w with this fence has come to process p, which remembers that
// while it waits for an answer.
inline Overtake(p, w, of_fence, is_notice) {
  j = p;
  do
  :: j <= TOKENS ->
    if
    :: call[j].state == ANSWERED && (call[j].holder == w || (j == w && HOLDS(j))) &&
        call[j].known == of_fence ->
      call[j].overtaken = (is_notice -> call[j].overtaken : 1);
      call[j].overtaken_forgotten = (is_notice -> 1 : call[j].overtaken_forgotten)
    :: else
    fi;
    j = j + PROCESSES
  :: else -> break
  od;
  j = 0
}

inline NextOf(set, p) {
  if
  :: set & BIT(1) -> p = 1
  :: set & BIT(2) -> p = 2
  :: set & BIT(PROCESSES) -> p = PROCESSES
  fi
}

proctype Server(byte w) {
  byte i = 0;
  byte named = 0;
  bit lands = 0;
  byte j = 0;
  byte p = 0;
  byte unread = 0;
  byte before = 0;

endServer:
  do
  // A process reads a push of the outcome.
  :: atomic {
      call[w].pushed != 0 ->
      NextOf(call[w].pushed, p);
      j = p;
      do
      :: j <= TOKENS ->
        if
#ifdef FAULT_push_for_any_call
        :: call[j].state == FOLLOWING -> Learn(j, p, w, call[w].push)
#else
        :: call[j].waited == w &&
#ifndef FAULT_push_without_fence
            call[j].waited_fence == call[w].push_fence &&
#endif
            true -> Learn(j, p, w, call[w].push)
#endif
        :: else
        fi;
        if
        :: lands -> Land(j, p)
        :: else
        fi;
        lands = 0;
        j = j + PROCESSES
      :: else -> break
      od;
      Overtake(p, w, call[w].push_fence, false);
      call[w].pushed = call[w].pushed & ~BIT(p);
      ClearPushes(w);
      p = 0
    }
  // A process reads that the call was forgotten.
  :: atomic {
      call[w].notice != 0 ->
      NextOf(call[w].notice, p);
      Notice(p, w, call[w].notice_fence);
      Overtake(p, w, call[w].notice_fence, true);
      NoteNotice(p, w, call[w].notice_fence);
      call[w].notice = call[w].notice & ~BIT(p);
      ClearPushes(w);
      p = 0
    }
  // The lease expires.
#ifndef FAULT_lease_without_expiry
  :: atomic {
      EXISTS(w) && call[w].state == DEAD ->
      Delete(w);
      call[w].expired = 1;
      call[w].asked = (call[w].closed -> call[w].asked : asking); call[w].closed = 1;
      Bury()
    }
#endif
  :: atomic {
      EXISTS(w) && call[w].state < OVER && MAY(EXPIRE) ->
      mishaps--;
      Delete(w);
      call[w].expired = 1
    }
  // The server runs the PUBLISH by which a process ends a lease that it does not hold.
  :: atomic {
      call[w].disowned != 0 ->
      DisownScript(w);
      Bury()
    }
  // The outcome expires.
  :: atomic {
      // It lasts longer than a RENEW can be late.
      call[w].outcome != UNSET && call[w].late != RENEW && (call[w].asked == 0 || MAY(LINGER)) ->
      mishaps = mishaps - (call[w].asked != 0); call[w].outcome = UNSET;
      call[w].outcome_fence = 0
    }
  // The server runs a late command.
  :: atomic {
      call[w].late != 0 ->
      before = EXISTS(w);
      if
      :: call[w].late == TAKE ->
        TakeScript(w, PROCESS(w), call[w].late_says, call[w].late_fence, unread, unread, unread)
      :: call[w].late == RENEW && !EXISTS(w) -> RemakeLease(w, call[w].late_fence)
      :: call[w].late == RENEW && EXISTS(w)
      :: call[w].late == PUBLISH -> PublishScript(w, call[w].late_says, call[w].late_fence)
      fi;
      call[w].stray = (call[w].stray || (EXISTS(w) && !before));
      unread = 0; before = 0; call[w].late = 0; call[w].late_says = 0; call[w].late_fence = 0;
      Bury()
    }
  od
}

// ---- Everybody may forget the key, and the server may lose its memory

inline LoseMemory() {
  lease = NONE;
  j = 1;
  do
  :: j <= TOKENS ->
    call[j].forgotten = 0; call[j].followers = 0; call[j].outcome = UNSET;
    call[j].outcome_fence = 0;
    // A server that restarts gets no RENEW from before.
    if
    :: call[j].late == RENEW -> call[j].late = 0; call[j].late_fence = 0
    :: else
    fi;
    // Nobody remembers that it was forgotten, unless its leader knows and executes, and knows its
    // fence.
    if
    :: call[j].was_forgotten && !(call[j].lost && call[j].known != 0) &&
        !call[j].overtaken_forgotten && call[j].answer != LEAD_FORGOTTEN ->
      call[j].was_forgotten = 0; call[j].noticed = 0;
      call[j].closed = (call[j].state == OVER)
    :: else
    fi;
    j++
  :: else -> break
  od;
  j = 0
}

proctype Outsider() {
  byte j = 0;
  byte p = 0;

endOutsider:
  do
  :: atomic {
      lease != NONE && MAY(FORGET) ->
      mishaps--;
      if
      :: p = 0
      :: current[1] != NONE -> p = 1
      :: current[2] != NONE -> p = 2
      :: current[PROCESSES] != NONE -> p = PROCESSES
      fi;
      call[lease].was_forgotten = 1; call[lease].closed = 1; call[lease].asked = asking;
      call[lease].noticed = 0;
      call[lease].notice = call[lease].followers;
      call[lease].notice = (call[lease].state < OVER ->
                            call[lease].notice | BIT(PROCESS(lease)) : call[lease].notice);
      call[lease].notice = call[lease].notice & HEARING;
      call[lease].notice_fence = (call[lease].notice == 0 -> 0 : call[lease].fence);
      if
      :: p != 0 ->
        current[p] = NONE;
        NoteNotice(p, lease, call[lease].fence)
      :: else
      fi;
#ifdef FAULT_forget_deletes
      Delete(lease);
#else
      call[lease].forgotten = 1; lease = NONE;
#endif
      p = 0
    }
  :: atomic {
      MAY(FLUSH) ->
      mishaps--;
      LoseMemory()
    }
  // Another server has the lease of a call that has landed. All pushes on their way are lost, and
  // the processes find out that they are, as if they were cut off. A late command does not come to
  // another server.
  :: atomic {
      over > 0 && MAY(RESTORE) ->
      mishaps--;
      LoseMemory();
      j = 1;
      do
      :: j < TOKENS -> j++
      :: call[j].state == OVER && call[j].late == 0 ->
        lease = j; call[j].stray = 1; call[j].closed = 1;
        call[j].made = (call[j].made == 0 -> 1 : call[j].made); call[j].fence = call[j].made;
        break
      :: j == TOKENS -> break
      od;
      j = 1;
      do
      :: j <= TOKENS ->
        call[j].pushed = 0; call[j].notice = 0;
        ClearPushes(j);
        deaf[PROCESS(j)] = (current[PROCESS(j)] != NONE);
        j++
      :: else -> break
      od;
      j = 0
    }
  od
}

init {
  byte i = 1;

  atomic {
    do
    :: i <= TOKENS ->
      run Local(i, PROCESS(i));
      run Server(i);
      if
      :: i <= PROCESSES -> run Process(i)
      :: else
      fi;
      i++
    :: else -> break
    od;
    run Outsider();
    i = 0
  }
  over == TOKENS  // nobody waits for ever
}

// SPDX-License-Identifier: MIT

// This is a model of one key of a redis::ReadThrough: the value on the server, its generation, the
// local caches, and what invalidates them. Processes ask, load, follow and die. The source of the
// values has versions. Somebody changes it, and then invalidates. SPIN explores all interleavings
// of these steps. Run it with
//
//   tests/model/check                     # EVIDENCE_LONG=1 adds the larger configurations
//
// Modelled: each `atomic` in a `do` is a step. A step is what the server does in one script, or
// what a process does when it reads an answer or a message. PROCESSES processes have ASKS local
// calls each, with a token each. The processes in LOCAL have a local cache. A local call can be
// joined until its command is sent. CHANGES times, a process changes the source and calls one of
// CHANGE_KINDS. In all, MISHAPS of the KINDS below happen, at any step. STALE says what stale_for
// and soft_timeout are.
//
// What lease.pml shows is taken for granted here: a call that follows learns the outcome once it is
// published, or asks again if it cannot. So there are no inboxes, no pushes and no redirections. A
// renewal is no step: a load whose lease was lost goes on, and at the end puts nothing.
//
// Not modelled: other keys, durations, values that do not decode, and a Cluster, where the scripts
// do not check the generation. No server takes the place of another and has an older generation.
// Turns are left out: a process sends its commands at any time. A process without a local cache
// learns a new generation only when it asks. The process of a change does not die before it has
// returned, and there is one change at a time. A load for which the server was never asked, because
// it is away, is left out: whoever joins it has joined an outage.
//
// The assertions say what must hold:
//
// - No call gets a value that is older than what any of its callers may demand. A caller demands
//   the version that the source had when the last invalidation before it was complete. That is so
//   when Invalidate has returned, in its own process and in those without a local cache, and when
//   the message has come, or the subscription is back, in the others. As long as a call can be
//   joined, somebody may join it, so what its process demands now is demanded of it.
// - A local cache never has a value that is older than what its process demands, so a hit in it
//   needs no step.
// - A load whose lease was forgotten puts nothing into the generation in use.
// - One load at a time, and none while there is a fresh value or a failure that was kept, unless a
//   mishap of ONE_LOAD has happened.
// - No call gets the outcome of a load of its own process that had finished before it asked.
// - The short look of a process without a local cache (MGET of the value, its marker and the
//   generation) never takes an expired value.
// - In the end, each process has heard of all invalidations.
//
// A call that waits for ever is found as an invalid end state.
//
// What keeps these promises, beside the scripts: a call is forgotten when its command is sent. What
// a local cache keeps belongs to the epoch in which the server was asked. A message ends it, and so
// do a new generation and a subscription that is back. The same is true of an expired value that a
// call has found in the local cache. A lease is older than what its load reads. So a lease that the
// server has lost is not made again, and a load whose process does not know its lease publishes
// nothing.
//
// FAULT_... plants a fault in the model. Each fault must be found.

// The bits of KINDS are the mishaps.
#define FAIL 1      // a load fails
#define CRASH 2     // a process dies, and another one has its remaining calls
#define LOSE 4      // the answer to a command is cut off, so the command is sent again
#define LATE 8      // the server runs a copy of a GET at any later time
#define FLUSH 16    // the server loses its memory
#define EVICT 32    // the server loses one name
#define CUT 64      // the subscription is cut, and the messages on their way to it are lost
#define AWAY 128    // a command waits for a connection, and nobody knows when it is sent
#define OUTAGE 256  // a process does not wait for the server, and loads without knowing of a lease
#define STALL 512   // the lease of a live process expires, because it has stalled
#define REFUSE 1024  // the server refuses a value or its marker
#define LEAVE 2048   // all callers of a load leave, and it stops
#define AGE 4096     // a value or a kept failure expires
#define EARLY 8192   // a value is refreshed before it expires

#ifndef KINDS
#define KINDS 16383
#endif
#ifndef MISHAPS
#define MISHAPS 0
#endif
#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifndef ASKS
#define ASKS 1
#endif
#ifndef LOCAL
#define LOCAL 2  // a set of processes
#endif
#ifndef CHANGES
#define CHANGES 1
#endif

// The bits of CHANGE_KINDS.
#define INVALIDATE 1
#define PUT 2
#define INVALIDATE_ALL 4

#ifndef CHANGE_KINDS
#define CHANGE_KINDS 1
#endif
#ifndef STALE
#define STALE 0  // 1: there is a stale_for. 2: and a soft_timeout
#endif
#ifndef RETRY_AFTER
#define RETRY_AFTER 1
#endif
#ifndef WARM
#define WARM 0  // 1: the local caches begin with a value
#endif
#ifndef GENERATIONS
#define GENERATIONS 2  // more are never made
#endif

#define TOKENS (PROCESSES * ASKS)
#define NONE 0  // no token, process, version or generation: all are numbered from 1
#define PROCESS(token) ((token - 1) % PROCESSES + 1)
#define BIT(number) (1 << (number - 1))
#define MAY(kind) (mishaps > 0 && (KINDS & kind))
#define HAS_LOCAL(process) ((LOCAL & BIT(process)) != 0)
// Only these may make two loads run at the same time, or one while there is a value.
#define ONE_LOAD ((KINDS & (LATE | FLUSH | EVICT | OUTAGE | STALL | REFUSE)) == 0)

// Outcomes. A version goes with the first two.
#define UNSET 0
#define VALUE 1
#define FAILURE 2
#define ABANDONED 3  // nobody loads any more: ask again
#define RUN_YOURSELF 4  // the outcome cannot be had: load without a lease

// The answers of GET are these, or the outcome of the call that is waited for.
#define LEAD 5
#define FOLLOW 6
#define HIT 7
#define REFRESH 8  // a hit, and a lease to load a new value
#define WAIT 9     // an expired value, and another call loads a new one
#define KEPT_FAILURE 10
#define OUTDATED 11   // another generation is in use
#define SHORT_HIT 12  // the short look has found a value

// The states of a local call.
#define IDLE 0
#define NEW 1     // its command is not sent, so others may join it
#define ASKING 2  // it is to ask again
#define ANSWERED 3  // the answer is on its way
#define FOLLOWING 4
#define LOADING 5  // under a lease, as far as it knows
#define BARE 6     // loads without one
#define LANDING 7  // LAND is to be sent, for the first time or again
#define OVER 8
#define DEAD 9

typedef Base {  // the names of one generation
  byte lease;     // the token that holds it
  byte value;     // its version
  byte token;     // with which it was put
  bit fresh;
  byte marker;    // the token of a value that is fresh
  byte failed;    // the version of a failure that is kept
  bit there;      // a fact: a load has put a value, and it is not to be loaded again
}

typedef Call {  // by its token
  // The server has stored these.
  bit forgotten;  // its lease is at forgotten:TOKEN
  unsigned fence : 3;
  unsigned outcome : 3;
  unsigned outcome_fence : 3;
  // This is on its way.
  unsigned late : 3;  // a copy of a GET for names of this generation
  // The process has these.
  unsigned state : 4;
  unsigned names : 3;  // the generation of its names
  byte waited;      // the token that it waits for
  unsigned waited_fence : 3;
  unsigned answer : 4;  // of GET, on its way
  byte holder;          // the token, or the generation, in it
  byte seen;            // the version in it
  unsigned known : 3;   // the fence in it, then of its own lease. 0: unknown
  bit unsent;      // it is not known when the command was sent
  bit barred;      // the lease in the answer is of its own process, and had ended before it asked
  bit in_epoch;    // its process has heard of no invalidation since it asked
  byte old;        // an expired value of the local cache, for the case that there is no other
  byte stale;      // likewise, one of the server
  bit background;  // it refreshes a value, and nobody waits for that
  bit waits;       // but its callers do, for a time
  bit expired;     // its lease has expired, by the clock of its process, too
  byte version;    // of the source, when its load began
  unsigned payload : 3;  // what it lands with
  // These are facts. Only the assertions use them.
  unsigned made : 3;  // how many leases were made for it
  byte required;      // the version that its callers demand
  bit later;          // it began after the load of the same process had finished
}

Base base[GENERATIONS + 1];
Call call[TOKENS + 1];          // call[NONE] stays empty
byte generation = 1;            // of the server
byte made_generations = 1;
byte source = 1;                // its version
byte mishaps = MISHAPS;
byte over = 0;
byte effective = 1;             // the version that the last invalidation on the server demands
byte all_version = 0;           // that of the last InvalidateAll

// By process.
byte current[PROCESSES + 1];    // the local call that newcomers join
byte generation_of[PROCESSES + 1];      // the generation. NONE: it is not known
byte newest[PROCESSES + 1];     // that was ever known
byte cached[PROCESSES + 1];     // the version in the local cache, if its epoch is not over
byte message[PROCESSES + 1];    // on its way: a key was invalidated. The version that it demands
byte told[PROCESSES + 1];       // on its way: the generation
byte deaf[PROCESSES + 1];       // one of these
byte missed[PROCESSES + 1];     // the version that the messages until it was subscribed demand
byte demanded[PROCESSES + 1];   // a fact: the version that a new caller demands
#define HEARS 0
#define CUT_OFF 1
#define SUBSCRIBED 2  // again, but it has not heard so

// The change that is under way.
byte changes = CHANGES;
unsigned step : 2;  // of these:
#define BEGUN 1     // to be sent, for the first time or again
#define CONFIRMED 2  // the answer is on its way
#define REJECTED 3  // likewise: another generation is in use
byte changer;
unsigned change : 3;
byte told_changer;  // the generation in the answer

// Used within a step only, so they are no part of the state.
hidden byte i;
hidden byte j;
hidden byte n;
hidden byte g;
hidden byte named;
hidden byte from;
hidden byte what;
hidden byte lands;
hidden byte is_early;

#define EXISTS(token) (base[call[token].names].lease == token || call[token].forgotten)
#define IS_HELD(token, of_fence) (EXISTS(token) && call[token].fence == of_fence)
#define HAS_OUTCOME(token, of_fence) \
  (call[token].outcome != UNSET && call[token].outcome_fence == of_fence)
#define HAS_ENDED(token) (call[token].state == LANDING || call[token].state == OVER)
#define OTHER(token) (token > PROCESSES -> token - PROCESSES : TOKENS - PROCESSES + token)
#define MAY_START(token, process)                           \
  (call[token].state == IDLE && current[process] == NONE && \
   (token <= PROCESSES || call[token - PROCESSES].state != IDLE))
#define MAY_MAKE_GENERATION \
  (made_generations < GENERATIONS && generation != NONE && change != INVALIDATE_ALL)

// ---- The server

inline MakeLease(t, g) {
  assert(base[g].lease == NONE);
  assert(!ONE_LOAD || g != generation || is_early || !base[g].there);
  assert(!ONE_LOAD || base[g].failed == NONE);  // it is not too early to load again
  base[g].lease = t; call[t].made++; call[t].fence = call[t].made
}

// The lease of t is no longer there, neither at its place nor at forgotten:TOKEN.
inline DropLease(t) {
  base[call[t].names].lease =
      (base[call[t].names].lease == t -> NONE : base[call[t].names].lease);
  call[t].forgotten = 0
}

// The part of the script of GET that is that of TAKE, for names of generation g.
inline Take(t, g, waits_for, named, answers, holds, fence_of) {
  if
  :: base[g].lease == t || call[t].forgotten -> answers = LEAD; fence_of = call[t].fence
  :: base[g].lease != t && !call[t].forgotten && call[t].outcome != UNSET -> answers = UNSET
  :: else ->
    if
    :: HAS_OUTCOME(waits_for, named) -> answers = call[waits_for].outcome; holds = waits_for
    :: !HAS_OUTCOME(waits_for, named) && call[waits_for].forgotten &&
        call[waits_for].fence == named ->
      answers = FOLLOW; holds = waits_for; fence_of = named
    :: else ->
      if
      :: base[g].lease == NONE -> MakeLease(t, g); answers = LEAD; fence_of = call[t].fence
      :: else -> answers = FOLLOW; holds = base[g].lease; fence_of = call[holds].fence
      fi
    fi
  fi
}

// The script of GET for token t and names of generation g.
inline GetScript(t, g, checks, waits_for, named, answers, holds, sees, fence_of) {
  if
#ifndef FAULT_get_without_generation
  :: checks && generation != g -> answers = OUTDATED; holds = generation
  :: !checks || generation == g ->
#else
  :: true ->
#endif
    if
    :: base[g].value != NONE && base[g].fresh && MAY(EARLY) -> mishaps--; is_early = 1
    :: true
    fi;
    if
    :: base[g].value != NONE && base[g].fresh && !is_early -> answers = HIT; sees = base[g].value
#ifndef FAULT_failure_not_looked_at
    :: base[g].value == NONE && base[g].failed != NONE ->
      answers = KEPT_FAILURE; sees = base[g].failed
    :: base[g].value == NONE && base[g].failed == NONE ->
#else
    :: base[g].value == NONE ->
#endif
      Take(t, g, waits_for, named, answers, holds, fence_of)
    :: base[g].value != NONE && (!base[g].fresh || is_early) ->
      sees = base[g].value;
      if
      // It is too early to try again, or another call refreshes it.
      :: base[g].lease != t && (base[g].failed != NONE ||
#ifdef FAULT_all_refresh
             false) ->
#else
             (base[g].lease != NONE && (STALE < 2 || is_early))) ->
#endif
        answers = HIT
      :: else ->
#ifdef FAULT_all_refresh
        base[g].lease = NONE;
#endif
        Take(t, g, waits_for, named, answers, holds, fence_of);
        if
        :: answers == LEAD -> answers = REFRESH
#ifdef FAULT_waits_without_soft_timeout
        :: answers == FOLLOW -> answers = WAIT
#else
        :: answers == FOLLOW && (STALE == 2 && !is_early) -> answers = WAIT
        :: answers == FOLLOW && (STALE < 2 || is_early) -> answers = HIT; holds = NONE; fence_of = 0
#endif
        :: answers == UNSET -> answers = HIT
        :: answers != UNSET && answers < LEAD -> sees = NONE
        :: answers > FOLLOW
        fi
      fi
    fi;
    is_early = 0
  fi
}

// What the script does for a late copy of a GET of t, whose answer nobody reads. A copy that names
// what t waited for would make a lease in fewer cases.
inline LateGetScript(t, g) {
  if
  :: generation == g && base[g].lease == NONE && base[g].failed == NONE &&
      !call[t].forgotten && call[t].outcome == UNSET ->
    if
    :: base[g].value == NONE || !base[g].fresh -> MakeLease(t, g)
    :: base[g].value != NONE && base[g].fresh && MAY(EARLY) -> mishaps--; MakeLease(t, g)
    :: base[g].value != NONE && base[g].fresh
    fi
  :: else
  fi
}

inline RemoveValue(g) { base[g].value = NONE; base[g].token = NONE; base[g].fresh = 0 }

// Puts a value into generation g. It is fresh, and a marker says so if it can outlive that.
inline PutScript(g, of_version, its_token) {
  assert(g != generation || of_version >= effective);
  base[g].value = of_version; base[g].token = its_token; base[g].fresh = 1; base[g].failed = NONE;
  if
  :: STALE > 0 -> base[g].marker = its_token
  :: STALE > 0 && MAY(REFUSE) -> mishaps--
  :: STALE == 0
  fi
}

// What the script of LAND does under the lease of t in generation g.
inline PutOutcome(t, g) {
  if
  :: call[t].payload == VALUE ->
#ifdef FAULT_put_after_publish
    base[g].there = 1
#else
    PutScript(g, call[t].version, t);
    base[g].there = 1
#endif
  :: call[t].payload == FAILURE && RETRY_AFTER -> base[g].failed = call[t].version
  :: call[t].payload == FAILURE && !RETRY_AFTER
  :: call[t].payload == RUN_YOURSELF -> RemoveValue(g); base[g].marker = NONE; base[g].there = 0
  :: call[t].payload == ABANDONED
  fi
}

inline PublishAs(t, of_fence) {
  call[t].outcome = call[t].payload; call[t].outcome_fence = of_fence
}

// The script of LAND of t, whose process was given the fence `call[t].known`, or has not heard it.
inline LandScript(t, g) {
  if
  // The server refuses the value.
  :: call[t].payload == VALUE && MAY(REFUSE) -> mishaps--; call[t].payload = RUN_YOURSELF
  :: true
  fi;
  if
#ifdef FAULT_put_without_token
  :: true -> PutOutcome(t, g)
#elif defined(FAULT_put_without_fence)
  :: base[g].lease == t -> PutOutcome(t, g)
#else
  :: base[g].lease == t && (call[t].known == 0 || call[t].fence == call[t].known) ->
    PutOutcome(t, g)
#endif
#ifdef FAULT_put_under_a_forgotten_lease
  :: base[g].lease != t && call[t].forgotten -> PutOutcome(t, g)
#endif
  :: else
  fi;
  if
  :: EXISTS(t) && (call[t].known == 0 || call[t].fence == call[t].known) ->
    PublishAs(t, call[t].fence); DropLease(t)
  :: !IS_HELD(t, call[t].known) && call[t].known != 0 && call[t].outcome == UNSET ->
    PublishAs(t, call[t].known)  // those who still wait find it
  :: else
  fi
}

// The script that says the generation, for process p.
inline GenerationScript(p) {
  if
  :: generation == NONE ->
#ifdef FAULT_lost_generation_taken_from_a_process
    generation = (newest[p] == NONE -> 1 : newest[p]);
#else
    made_generations++; generation = made_generations;
#endif
    TellGeneration()
  :: else
  fi;
  LearnNewest(p, generation)
}

inline TellGeneration() {
  n = 1;
  do
  :: n <= PROCESSES -> told[n] = (HAS_LOCAL(n) && deaf[n] != CUT_OFF -> generation : told[n]); n++
  :: else -> break
  od;
  n = 0
}

inline TellKey() {
  n = 1;
  do
  :: n <= PROCESSES ->
    message[n] = (HAS_LOCAL(n) && deaf[n] != CUT_OFF -> source : message[n]); n++
  :: else -> break
  od;
  n = 0
}

// ---- What a process knows

// What process p has been given for the key so far is of no use any more. Nor is the expired value
// of the local cache that a call has brought.
inline EndEpoch(p) {
  cached[p] = NONE;
  i = p;
  do
  :: i <= TOKENS ->
    call[i].in_epoch = 0;
#ifndef FAULT_old_value_kept
    call[i].old = NONE;
#endif
    i = i + PROCESSES
  :: else -> break
  od;
  i = 0
}

// It learns a generation that is not older than any that it knew.
inline LearnNewest(p, g) {
  assert(g >= newest[p]);
  if
  :: g == generation_of[p]
  :: g != generation_of[p] ->
    generation_of[p] = g; newest[p] = g;
#ifndef FAULT_epochs_outlive_generation
    EndEpoch(p)
#endif
  fi
}

// It learns the generation in an answer, which may be old by now, or NONE.
inline Learn(p, g) {
  if
  :: g >= newest[p] && g != NONE -> LearnNewest(p, g)
  :: g == NONE || g < newest[p] -> generation_of[p] = NONE
  fi
}

// From now on, a new caller of process p demands this version. So does one that joins.
inline Demand(p, of_version) {
  demanded[p] = (of_version > demanded[p] -> of_version : demanded[p]);
  call[current[p]].required = (current[p] == NONE -> 0 : demanded[p]);
  assert(cached[p] == NONE || cached[p] >= demanded[p])
}

// The process of t keeps a value of this version, if no message has come since t asked.
inline KeepLocally(t, me, of_version) {
  if
  :: HAS_LOCAL(me) && call[t].in_epoch ->
    cached[me] = of_version;
    assert(cached[me] >= demanded[me])
  :: else
  fi
}

inline Give(t, of_version) { assert(of_version >= call[t].required) }

// Merges states that differ only in what nobody looks at any more.
inline Bury() {
  i = 1; named = 0;
  do
  :: i <= TOKENS ->
    named = named | (1 << call[i].waited) |
            (call[i].answer < OUTDATED -> (1 << call[i].holder) : 0);
    i++
  :: else -> break
  od;
  i = 1;
  do
  :: i <= TOKENS ->
    if
    :: call[i].state >= OVER && call[i].late == 0 && !EXISTS(i) && !(named & (1 << i)) ->
      call[i].fence = 0; call[i].made = 0; call[i].names = 0; call[i].version = 0;
      call[i].outcome = UNSET; call[i].outcome_fence = 0; call[i].known = 0; call[i].payload = UNSET
    :: else
    fi;
    i++
  :: else -> break
  od;
  i = 0; named = 0
}

inline ForgetLocally(t, me) { current[me] = (current[me] == t -> NONE : current[me]) }

inline ClearAnswer(t) {
  call[t].answer = UNSET; call[t].holder = NONE; call[t].seen = NONE; call[t].barred = 0;
  call[t].unsent = 0
}

// The process has nothing more to do for call t.
inline End(t, me, how) {
  ForgetLocally(t, me);
  over++;
  call[t].state = how; call[t].waited = NONE; call[t].waited_fence = 0;
  ClearAnswer(t);
  call[t].in_epoch = 0; call[t].old = NONE; call[t].stale = NONE; call[t].background = 0;
  call[t].waits = 0; call[t].required = 0; call[t].expired = 0; call[t].later = 0;
  Bury()
}

#define HAS_OLD(token) (call[token].stale != NONE || call[token].old != NONE)

// The callers get the expired value that there is.
inline GiveOld(t, checks) {
  if
  :: call[t].stale != NONE -> assert(!checks || call[t].stale >= call[t].required)
  :: call[t].stale == NONE -> assert(!checks || call[t].old >= call[t].required)
  fi
}

// Gives them an expired value if there is one, and sets `lands`.
inline GiveAnyOld(t, checks) {
  if
  :: HAS_OLD(t) -> GiveOld(t, checks); lands = 1
  :: !HAS_OLD(t) -> lands = 0
  fi
}

inline Load(t, how) {
  call[t].version = source; call[t].state = how; call[t].waited = NONE; call[t].waited_fence = 0
}

// It loads under a lease.
inline LoadWithLease(t) {
  Load(t, LOADING);
  i = 1;
  do
  :: i <= TOKENS ->
    assert(!ONE_LOAD || i == t || call[i].state != LOADING || call[i].names != call[t].names ||
           call[i].forgotten || call[t].forgotten);
    i++
  :: else -> break
  od;
  i = 0
}

// Call t learns what was published for call `from`: `what`.
inline LearnOutcome(t, me) {
  lands = 0;
  if
  :: what == VALUE ->
    assert(call[from].version >= call[t].required);
    assert(PROCESS(from) != me || !call[t].later || call[from].state == DEAD);
    lands = 1
  :: what == FAILURE ->
    GiveAnyOld(t, true);
    if
    :: !lands ->
      assert(call[from].version >= call[t].required);
      assert(PROCESS(from) != me || !call[t].later || call[from].state == DEAD);
      lands = 1
    :: else
    fi
  :: what == ABANDONED ->
    call[t].waited = NONE; call[t].waited_fence = 0; call[t].state = ASKING
  :: what == RUN_YOURSELF ->
    if
    :: call[t].stale != NONE -> assert(call[t].stale >= call[t].required); lands = 1
    :: else -> Load(t, BARE)
    fi
  fi;
  if
  :: lands -> lands = 0; End(t, me, OVER)
  :: else
  fi;
  from = 0; what = UNSET
}

// ---- A local call

// It sends a command: nobody joins it any more, and messages count from now on.
inline OnAsks(t, me) {
#ifndef FAULT_joined_after_it_asked
  ForgetLocally(t, me);
#endif
#ifndef FAULT_epoch_of_the_answer
  call[t].in_epoch = 1
#endif
}

inline Start(t, me) {
  current[me] = t; call[t].required = demanded[me];
  call[t].later = (ASKS > 1 && HAS_ENDED(OTHER(t)))
}

// Whether it follows a load that an InvalidateAll has forgotten.
#define IS_OUTDATED(token, process) \
  (call[token].waited != NONE && call[token].names != generation_of[process])
#define MAY_ASK_AGAIN(token)                                          \
  (call[token].state == FOLLOWING &&                                  \
   (!IS_HELD(call[token].waited, call[token].waited_fence) ||         \
    base[call[token].names].value != NONE ||                          \
    base[call[token].names].failed != NONE || EXISTS(token)))
// What the short look takes.
#ifdef FAULT_short_look_without_marker
#define IS_MARKED(g) true
#elif defined(FAULT_marker_of_any_value)
#define IS_MARKED(g) (STALE == 0 || base[g].marker != NONE)
#else
#define IS_MARKED(g) (STALE == 0 || base[g].marker == base[g].token)
#endif

// No process that lives may hold the lease of this token.
#define IS_STRAY(token)                                                     \
  (EXISTS(token) &&                                                         \
   (call[token].state >= OVER || call[token].state == BARE ||               \
    ((call[token].state == LOADING || call[token].state == LANDING) &&      \
     call[token].known != 0 && call[token].known != call[token].fence)))

proctype Local(byte t; byte me) {
endLocal:
  do
  // It begins, and has found an expired value in the local cache.
  :: atomic {
      MAY_START(t, me) && STALE > 0 && cached[me] != NONE ->
      Start(t, me);
      call[t].old = cached[me];
      call[t].state = NEW
    }
  // It begins, or asks again: the server runs GET.
  :: atomic {
      (MAY_START(t, me) || call[t].state == NEW || call[t].state == ASKING ||
       MAY_ASK_AGAIN(t)) && generation_of[me] != NONE ->
      if
      :: call[t].state == IDLE -> Start(t, me)
      :: else
      fi;
      if
      :: IS_OUTDATED(t, me)
      :: !IS_OUTDATED(t, me) ->
        if
        :: call[t].names != generation_of[me] && EXISTS(t) ->  // it is given back
          DropLease(t)
        :: else
        fi;
        call[t].names = generation_of[me];
        if
        :: MAY(AWAY) -> mishaps--; call[t].unsent = 1
        :: true -> OnAsks(t, me)
        fi
      fi;
      if
      :: MAY(LATE) && call[t].late == 0 && !IS_OUTDATED(t, me) ->
        mishaps--; call[t].late = call[t].names
      :: true
      fi;
      i = base[call[t].names].lease;
#ifdef FAULT_ended_lease_followed
      i = NONE;
#endif
      call[t].barred = (i != NONE && i != t && PROCESS(i) == me && call[i].state == LANDING);
      i = 0;
      GetScript(t, call[t].names, !IS_OUTDATED(t, me), call[t].waited, call[t].waited_fence,
                call[t].answer, call[t].holder, call[t].seen, call[t].known);
      assert(call[t].answer != UNSET);
      call[t].barred =
          (call[t].answer == FOLLOW || call[t].answer == WAIT -> call[t].barred : 0);
      call[t].state = ANSWERED
    }
  // It begins with the short look, which finds a value.
  :: atomic {
      MAY_START(t, me) && !HAS_LOCAL(me) && generation_of[me] != NONE &&
          base[generation_of[me]].value != NONE && IS_MARKED(generation_of[me]) &&
#if !defined(FAULT_short_look_without_generation) && !defined(FAULT_short_look_compares_later)
          generation == generation_of[me] &&
#endif
          true ->
      Start(t, me);
      assert(base[generation_of[me]].fresh);
      if
      :: MAY(AWAY) -> mishaps--; call[t].unsent = 1
      :: true -> OnAsks(t, me)
      fi;
      call[t].names = generation_of[me]; call[t].answer = SHORT_HIT; call[t].holder = generation;
      call[t].seen = base[generation_of[me]].value; call[t].state = ANSWERED
    }
  // The answer is lost.
  :: atomic {
      call[t].state == ANSWERED && MAY(LOSE) ->
      mishaps--;
      ClearAnswer(t); call[t].known = 0;
      call[t].state = ASKING
    }
  // It reads the answer.
  :: atomic {
      call[t].state == ANSWERED && (!call[t].barred || call[call[t].holder].state != LANDING) ->
#ifdef FAULT_epoch_of_the_answer
      call[t].in_epoch = (call[t].waited == NONE -> 1 : call[t].in_epoch);
#endif
#ifndef FAULT_epoch_of_an_outdated_answer
      call[t].unsent = (IS_OUTDATED(t, me) -> 0 : call[t].unsent);  // nobody could join it
#endif
      if
      :: call[t].unsent -> OnAsks(t, me)
      :: else
      fi;
      lands = 0;
      if
      // Others may have joined after the server had run it.
#ifndef FAULT_queued_answer_used
      :: call[t].unsent && call[t].answer != LEAD -> call[t].known = 0; call[t].state = ASKING
      :: (!call[t].unsent || call[t].answer == LEAD) ->
#else
      :: true ->
#endif
        if
        :: call[t].answer == OUTDATED ->
          Learn(me, call[t].holder);
          call[t].state = ASKING
#ifdef FAULT_short_look_compares_later
        :: call[t].answer == SHORT_HIT && call[t].holder != generation_of[me] ->
          call[t].state = ASKING
        :: call[t].answer == SHORT_HIT && call[t].holder == generation_of[me] ->
#else
        :: call[t].answer == SHORT_HIT ->
#endif
          Give(t, call[t].seen); lands = 1
        :: call[t].answer == HIT ->
          Give(t, call[t].seen); KeepLocally(t, me, call[t].seen); lands = 1
        :: call[t].answer == KEPT_FAILURE ->
          GiveAnyOld(t, true);
          if
          :: !lands -> Give(t, call[t].seen); lands = 1
          :: else
          fi
        :: call[t].answer == REFRESH ->
          if
          :: STALE < 2 || base[call[t].names].fresh ->  // it is early, or the expired one will do
            Give(t, call[t].seen); KeepLocally(t, me, call[t].seen)
          :: STALE == 2 -> call[t].waits = 1; call[t].stale = call[t].seen
          fi;
          call[t].background = 1;
          LoadWithLease(t)
        :: call[t].answer == LEAD -> LoadWithLease(t)
        :: (call[t].answer == FOLLOW || call[t].answer == WAIT) && call[t].barred ->
          call[t].known = 0; call[t].state = ASKING
        :: (call[t].answer == FOLLOW || call[t].answer == WAIT) && !call[t].barred ->
          assert(call[t].answer == FOLLOW || STALE == 2);  // how long would it wait?
          call[t].stale = (call[t].answer == WAIT -> call[t].seen : call[t].stale);
          call[t].waited = call[t].holder; call[t].waited_fence = call[t].known;
          call[t].known = 0; call[t].state = FOLLOWING
        :: call[t].answer < LEAD ->
          from = call[t].holder; what = call[t].answer;
          LearnOutcome(t, me)
        fi
      fi;
      if
      :: lands -> lands = 0; End(t, me, OVER)
      :: else
      fi;
      assert(call[t].state != ANSWERED);
      ClearAnswer(t);
      Bury()
    }
  // It learns the outcome that it waits for.
  :: atomic {
      call[t].state == FOLLOWING && HAS_OUTCOME(call[t].waited, call[t].waited_fence) ->
      from = call[t].waited; what = call[from].outcome;
      LearnOutcome(t, me)
    }
  // It has waited for the soft timeout.
  :: atomic {
      STALE == 2 && call[t].state == FOLLOWING && HAS_OLD(t) ->
      GiveOld(t, true);
      End(t, me, OVER)
    }
  :: atomic {
      STALE == 2 && call[t].state == LOADING && call[t].waits ->
      Give(t, call[t].stale); call[t].waits = 0; call[t].stale = NONE; call[t].required = 0
    }
  // It does not wait for the server.
  :: atomic {
      (call[t].state == FOLLOWING || (call[t].state == ANSWERED && !call[t].unsent)) &&
          MAY(OUTAGE) ->
      mishaps--;
      GiveAnyOld(t, false);  // which may be older than what the server has
      if
      :: lands -> lands = 0; End(t, me, OVER)
      :: else ->
#ifdef FAULT_outcome_published_without_fence
        call[t].known = 0;
        Load(t, (call[t].state == ANSWERED -> LOADING : BARE));
#else
        // It gives back the lease that it may have been given.
        if
        :: EXISTS(t) ->
          DropLease(t); call[t].outcome = ABANDONED; call[t].outcome_fence = call[t].fence
        :: else
        fi;
        call[t].known = 0;
        Load(t, BARE);
#endif
        ClearAnswer(t)
      fi;
      Bury()
    }
#ifdef FAULT_lease_made_again
  // RENEW finds that the server has lost its lease.
  :: atomic {
      call[t].state == LOADING && base[call[t].names].lease == NONE && !call[t].forgotten &&
          !call[t].expired && call[t].known != 0 && call[t].outcome == UNSET ->
      base[call[t].names].lease = t; call[t].fence = call[t].known
    }
#endif
  // The load returns, and all its callers with it.
  :: atomic {
      call[t].state == LOADING ->
      if
      :: call[t].payload = VALUE;
        if
        :: !call[t].background || call[t].waits -> Give(t, call[t].version)
        :: else
        fi;
        KeepLocally(t, me, call[t].version)
      :: MAY(FAIL) ->
        mishaps--;
        GiveAnyOld(t, true);
        lands = 0;
        call[t].payload = FAILURE
      :: MAY(LEAVE) && !call[t].background -> mishaps--; call[t].payload = ABANDONED
      fi;
      call[t].stale = NONE; call[t].old = NONE; call[t].waits = 0; call[t].required = 0;
      call[t].background = 0; call[t].in_epoch = 0;
      call[t].state = LANDING
    }
  :: atomic {
      call[t].state == BARE ->
      Give(t, call[t].version);
      KeepLocally(t, me, call[t].version);
      End(t, me, OVER)
    }
  // The server runs LAND.
  :: atomic {
      call[t].state == LANDING ->
      if
      :: call[t].expired -> End(t, me, OVER)  // its lease is not its own any more
      // RENEW has found that the server has lost the lease, and by now it would have expired.
      :: !call[t].expired && call[t].known != 0 && !IS_HELD(t, call[t].known) -> End(t, me, OVER)
      :: !call[t].expired ->
        LandScript(t, call[t].names);
        if
        :: MAY(LOSE) -> mishaps--
        :: true -> End(t, me, OVER)
        fi
      fi
    }
#ifdef FAULT_put_after_publish
  :: atomic {
      call[t].state >= OVER && call[t].payload == VALUE && base[call[t].names].there &&
          base[call[t].names].value == NONE ->
      base[call[t].names].value = call[t].version; base[call[t].names].token = t;
      base[call[t].names].fresh = 1; base[call[t].names].marker = t
    }
#endif
  // ---- What happens to its lease and its commands
  // A lease expires.
#ifndef FAULT_lease_of_the_dead_kept
  :: atomic {
      IS_STRAY(t) ->
      DropLease(t);
      Bury()
    }
#endif
  :: atomic {
      EXISTS(t) && (call[t].state == LOADING || call[t].state == LANDING) && MAY(STALL) ->
      mishaps--;
      DropLease(t); call[t].expired = 1
    }
  // The server runs a late GET.
  :: atomic {
      call[t].late != 0 ->
      LateGetScript(t, call[t].late);
      call[t].late = 0;
      Bury()
    }
  od
}

// ---- What may happen to process p, and on the way to it

proctype Process(byte p) {
endProcess:
  do
  // It asks for the generation, and is answered.
  :: atomic {
      generation_of[p] == NONE ->
      GenerationScript(p)
    }
  // It reads that the key was invalidated.
  :: atomic {
      message[p] != NONE && deaf[p] == HEARS ->
      EndEpoch(p);
      Demand(p, message[p]);
      message[p] = NONE
    }
  // It reads that there is a new generation.
  :: atomic {
      told[p] != NONE && deaf[p] == HEARS ->
      LearnNewest(p, told[p]);
      Demand(p, all_version);
      told[p] = NONE
    }
  // The subscription is cut.
  :: atomic {
      HAS_LOCAL(p) && deaf[p] == HEARS && MAY(CUT) && (changes > 0 || step != 0) ->
      mishaps--;
#ifdef FAULT_emptied_when_cut
      EndEpoch(p);
#endif
      deaf[p] = CUT_OFF; message[p] = NONE; told[p] = NONE
    }
  // The server subscribes it again.
  :: atomic {
      deaf[p] == CUT_OFF ->
      deaf[p] = SUBSCRIBED; missed[p] = effective
    }
  // It reads that.
  :: atomic {
      deaf[p] == SUBSCRIBED ->
#if !defined(FAULT_not_emptied_when_back) && !defined(FAULT_emptied_when_cut)
      EndEpoch(p);
#endif
      GenerationScript(p);
      deaf[p] = HEARS;
      Demand(p, missed[p]);
      missed[p] = NONE
    }
  // It dies. Another process has its remaining calls.
  :: atomic {
      (step == 0 || changer != p) && MAY(CRASH) &&
          ((call[p].state > IDLE && call[p].state < OVER) ||
           (ASKS > 1 && call[OTHER(p)].state > IDLE && call[OTHER(p)].state < OVER)) ->
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
      j = 0;
      cached[p] = NONE; generation_of[p] = NONE; newest[p] = NONE;
      message[p] = NONE; told[p] = NONE; missed[p] = NONE;
      deaf[p] = (HAS_LOCAL(p) -> CUT_OFF : HEARS);
      Bury()
    }
  od
}

// ---- A change of the source, and what makes it known

proctype Change() {
endChange:
  do
  // A process changes the source, and begins to say so.
  :: atomic {
      changes > 0 && step == 0 ->
      changes--; source++;
      if
      :: changer = 1
      :: PROCESSES > 1 -> changer = 2
      :: PROCESSES > 2 -> changer = PROCESSES
      fi;
      if
      :: (CHANGE_KINDS & INVALIDATE) -> change = INVALIDATE
      :: (CHANGE_KINDS & PUT) -> change = PUT
      :: (CHANGE_KINDS & INVALIDATE_ALL) && MAY_MAKE_GENERATION -> change = INVALIDATE_ALL
      :: (CHANGE_KINDS & INVALIDATE_ALL) && !MAY_MAKE_GENERATION -> change = INVALIDATE
      fi;
      step = BEGUN;
#ifdef FAULT_message_before_invalidation
      TellKey();
#endif
      EndEpoch(changer)
    }
  // The server runs it.
  :: atomic {
      step == BEGUN && generation_of[changer] != NONE ->
      g = generation_of[changer];
      if
      :: change == INVALIDATE_ALL ->
#ifndef FAULT_no_new_generation
        made_generations++;
        generation = made_generations;
#endif
        effective = source; all_version = source;
        TellGeneration();
        told_changer = generation; step = CONFIRMED
#ifndef FAULT_invalidation_without_generation
      :: change != INVALIDATE_ALL && generation != g -> told_changer = generation; step = REJECTED
      :: change != INVALIDATE_ALL && generation == g ->
#else
      :: change != INVALIDATE_ALL ->
#endif
        effective = source;
#ifndef FAULT_value_not_removed
        RemoveValue(g);
#endif
        base[g].there = 0;
        base[g].marker = NONE;
#ifndef FAULT_failure_not_removed
        base[g].failed = NONE;
#endif
#ifndef FAULT_load_not_forgotten
        call[base[g].lease].forgotten = (base[g].lease != NONE);
        base[g].lease = NONE;
#endif
#if !defined(FAULT_no_message) && !defined(FAULT_message_before_invalidation)
        TellKey();
#endif
        if
        :: change == PUT -> PutScript(g, source, TOKENS + source)
        :: change == INVALIDATE
        fi;
        step = CONFIRMED
      fi;
      g = 0
    }
  // The answer is lost.
  :: atomic {
      (step == CONFIRMED || step == REJECTED) && MAY(LOSE) &&
          (change != INVALIDATE_ALL || made_generations < GENERATIONS) ->
      mishaps--; step = BEGUN; told_changer = NONE
    }
  :: atomic {
      step == REJECTED ->
      Learn(changer, told_changer);
      step = BEGUN; told_changer = NONE
    }
  // It returns.
  :: atomic {
      step == CONFIRMED ->
      if
      :: change == INVALIDATE_ALL -> Learn(changer, told_changer)
      :: else
      fi;
#ifndef FAULT_epoch_not_ended_by_the_answer
      EndEpoch(changer);
#endif
      current[changer] = NONE;
      n = 1;
      do
      :: n <= PROCESSES ->
        if
        :: n == changer || !HAS_LOCAL(n) -> Demand(n, source)
        :: else
        fi;
        n++
      :: else -> break
      od;
      n = 0; step = 0; change = 0; changer = 0; told_changer = NONE
    }
  od
}

// ---- What happens on the server by itself

inline LoseMemory() {
  g = 1;
  do
  :: g <= GENERATIONS ->
    base[g].lease = NONE; RemoveValue(g); base[g].marker = NONE; base[g].failed = NONE;
    base[g].there = 0;
    g++
  :: else -> break
  od;
  i = 1;
  do
  :: i <= TOKENS ->
    call[i].forgotten = 0; call[i].outcome = UNSET; call[i].outcome_fence = 0;
    i++
  :: else -> break
  od;
  g = 0; i = 0
}

proctype Server() {
endServer:
  do
  :: atomic {
      generation != NONE && base[generation].value != NONE && MAY(AGE) ->
      mishaps--;
      g = generation;
      if
      :: base[g].fresh && STALE > 0 ->
        base[g].fresh = 0;
        base[g].marker = (base[g].marker == base[g].token -> NONE : base[g].marker)
      :: else -> RemoveValue(g)
      fi;
      base[g].there = 0; g = 0
    }
  :: atomic {
      generation != NONE && base[generation].failed != NONE && MAY(AGE) ->
      mishaps--; base[generation].failed = NONE
    }
  :: atomic {
      generation != NONE && MAY(EVICT) &&
          (base[generation].value != NONE || base[generation].marker != NONE ||
           base[generation].failed != NONE || base[generation].lease != NONE ||
           MAY_MAKE_GENERATION) ->
      mishaps--;
      g = generation;
      if
      :: base[g].value != NONE -> RemoveValue(g); base[g].there = 0
      :: base[g].marker != NONE -> base[g].marker = NONE
      :: base[g].failed != NONE -> base[g].failed = NONE
      :: base[g].lease != NONE -> base[g].lease = NONE
      :: MAY_MAKE_GENERATION -> generation = NONE
      fi;
      g = 0
    }
  :: atomic {
      MAY(FLUSH) && MAY_MAKE_GENERATION ->
      mishaps--;
      LoseMemory();
      generation = NONE
    }
  od
}

init {
  atomic {
    i = 1;
    do
    :: i <= PROCESSES ->
      generation_of[i] = 1; newest[i] = 1; demanded[i] = 1;
      cached[i] = (WARM && HAS_LOCAL(i) -> 1 : NONE);
      i++
    :: else -> break
    od;
    i = 1;
    do
    :: i <= TOKENS ->
      run Local(i, PROCESS(i));
      if
      :: i <= PROCESSES -> run Process(i)
      :: else
      fi;
      i++
    :: else -> break
    od;
    run Change();
    run Server();
    i = 0
  }
  over == TOKENS;  // nobody waits for ever
  timeout;         // nothing more can happen
  atomic {
    i = 1;
    do
    :: i <= PROCESSES -> assert(demanded[i] == effective); i++  // every process has been told
    :: else -> break
    od;
    i = 0
  }
}

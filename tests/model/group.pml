// SPDX-License-Identifier: MIT

// This is a model of one key of a Group. Callers join and leave calls. Calls are forgotten, asked
// to stop and landed. In the end the group is destroyed. SPIN explores all interleavings of these
// steps. Run it with
//
//   tests/model/check                     # EVIDENCE_LONG=1 adds the larger configurations
//
// Modelled: each label is a step, or a part of one, and is named after the function in
// include/singleflight that it stands for. A step is what happens under one lock, together with
// what its thread does before or after that no other thread can tell apart. Callers 1 to CALLERS
// ask ASKS times each, each time in any way that KINDS allows. A stop may be requested of each, and
// another thread forgets the key FORGETS times. The work of a call may take the stop token, early
// or late, if anything could request it. A stop may be requested of a caller with OnFailure::kRetry
// after its call has failed: then it gives up. With LEAVES, it may time out in its second try. With
// AGE, any call may be too old for the next caller. With FAILS, `fn` may fail and a task may be
// dropped. With THROWS, `launch` may throw after it has passed on its Lead. Each asynchronous call
// is landed by a thread of its own. The group is destroyed when no caller is inside. With OUTLIVE,
// waiters and Futures may leave or wait after that.
//
// Not modelled: limits, failing allocations, several stops requested at the same moment, waiters
// with OnFailure::kRetry, closing and SharedFuture are left out. Other keys and shards are left out
// with the wait graph, the only place where they meet. Memory order is left out: here all threads
// see all writes in one order. The tests and ThreadSanitizer check these.
//
// The assertions say what must hold, with the number of its promise in
// include/singleflight/README.md. A process that is stuck is found as an invalid end state. Callers
// differ only by number, so the model explores only executions in which their first steps come in
// the order of their numbers.
//
// FAULT_... plants a fault in the model. Each fault must be found.
//
// How to read the jumps: within an atomic sequence, a jump to a label inside an atomic sequence
// continues the step. A jump to a label in front of one finishes the step. A `skip` that comes
// first keeps the label after it inside the sequence.

// The bits of KINDS are the ways to ask.
#define DO 1       // Do without options
#define RETRY 2    // Do with OnFailure::kRetry
#define TIMED 4    // Do with a timeout
#define STOPPED 8  // Do with a stop token
#define WAITER 16  // Join with a Waiter
#define FUTURE 32  // Join that returns a Future

#ifndef KINDS
#define KINDS 63
#endif
#ifndef CALLERS
#define CALLERS 3
#endif
#ifndef ASKS
#define ASKS 1
#endif
#ifndef FORGETS
#define FORGETS 0
#endif
#ifndef FAILS
#define FAILS 0
#endif
#ifndef THROWS
#define THROWS 0
#endif
#ifndef OUTLIVE
#define OUTLIVE 0
#endif
#ifndef AGE
#define AGE 0
#endif
#ifndef LEAVES
#define LEAVES 0
#endif

// The bits of TAKES say when the work of a call may take the stop token.
#define NEVER 1
#define EARLY 2  // in `launch`, or if it is led in Do
#define LATE 4   // when it begins

#ifndef TAKES
#define TAKES 7
#endif

#define CALLS (CALLERS * ASKS)  // an upper bound: a leader does not ask again in that Do
#define NONE 0                  // no call or no caller: both are numbered from 1

// The outcomes of a call.
#define UNSET 0
#define VALUE 1
#define FAILURE 2
#define VANISHED 3
#define ENDED 4  // the value was moved to its only caller or discarded

// The states of AsyncCall::Phase.
#define LAUNCHED 0
#define RUNNING 1
#define LANDED 2

// The functions that a stop callback may call.
#define INTERRUPT 1
#define LEADER_LEAVES 2

typedef Call {
  // The fields of CallBase and Call.
  unsigned callers : 3;
  bit leader_left;
  bit forgotten;
  bit has_state;
  bit takes_stop;
  bit asked;  // the stop source was requested
  // The fields of SharedState.
  bit landed;  // `call` is null, and HasLanded is true
  bit shared;
  unsigned outcome : 3;
  bit broadcast;
  bit published;
  unsigned first : 2;
  unsigned last : 2;
  unsigned retriers : 2;
  unsigned second_try : 4;
  unsigned expected : 2;
  bit has_latecomers;
  // The fields of AsyncCall.
  bit async;
  unsigned phase : 2;
  unsigned leads : 2;
  bit posted;  // the executor has the task
  // Only the assertions use these.
  unsigned on : 3;    // number of those that will get the outcome
  unsigned owed : 3;  // number of those that were to get it when the call was closed
  unsigned took : 3;  // number of those that got it, or were to and did not take it
  bit unwanted;       // no caller was left on it when it could be asked to stop
  bit tried_again;    // a caller that followed it asked again, and no other did before
  bit returned;       // a caller has got the outcome
  bit ran;            // fn was run
  unsigned refs : 4;  // processes that may still touch the call or its state
};

typedef Node {  // a Waiter, with its Event
  bit alive;
  unsigned prev : 2;
  unsigned next : 2;
  bit notified;
  bit set;  // OnLanded has been called
  bit interrupted;
  bit asleep;
  bit left;  // used only by the assertions
};

typedef Stop {  // a caller's stop_callback
  unsigned callback : 2;
  unsigned call : 4;
  bit running;
};

Call call[CALLS + 1];
Node node[CALLERS + 1];
Stop stop[CALLERS + 1];
byte slot = NONE;     // the call that Find returns
byte size = 0;        // Shard::size_
byte forgotten = 0;   // Shard::forgotten_
byte executions = 0;  // Stats::executions
byte landings = 0;
byte async_calls = 0;  // the length of Shard::async_calls
bit draining;          // Shard::drained is set
bit drained;           // the Event that Shard::drained points to is set
bit held;              // the shard is locked beyond one step, by the thread that sets `drained`
bit group_gone;
byte inside = 0;  // threads that are inside a member of the group, or may enter one
byte started = 0;
byte launching[CALLERS + 1];  // the call whose Lead this caller's Join still holds, or NONE

// ---- The table

inline Lock() {
  !held;
  assert(!group_gone);  // promise 14
}

inline Unlock() {
  // Promises 1 and 11: a call that can be joined has callers or cannot be asked to stop. It is
  // neither forgotten nor landed, and was not asked to stop.
  assert(slot == NONE || call[slot].callers > 0 || !call[slot].takes_stop);
  assert(slot == NONE || (!call[slot].forgotten && !call[slot].landed));
  assert(slot == NONE || !call[slot].asked || inside == 0);  // ~Group asks all calls
  assert(size == (slot != NONE));
}

// Unlocks after a caller joined or left call c, or after it landed. The counted are those on it.
inline UnlockCounted(c) {
  assert(call[c].callers + call[c].leader_left == call[c].on);
  // Promise 11: a call that can be asked to stop, and has no callers, will be asked.
  assert(call[c].landed || call[c].callers > 0 || !call[c].takes_stop || call[c].unwanted);
  Unlock()
}

inline Erase(c) {
  assert(slot == NONE || slot == c);  // promise 3
#ifdef FAULT_erase_by_key
  if
  :: slot != NONE -> slot = NONE; size--
  :: else
  fi
#else
  assert(slot == c);  // else Shard::Erase would run off its bucket
  slot = NONE;
  size--
#endif
}

inline Forget(c) {
  call[c].forgotten = 1;  // this comes first: c may be `slot` itself
  forgotten++;
  Erase(c)
}

inline Remove(c) {
  if
  :: call[c].forgotten ->
    forgotten--;
#ifdef FAULT_erase_by_key
    Erase(c)
#endif
  :: else -> Erase(c)
  fi
}

// ---- The ledger

// Makes a new call c, led by this caller.
inline Begin(c) {
  if
  :: slot != NONE ->  // that call is too old
#ifndef FAULT_too_old_not_forgotten
    Forget(slot)
#endif
  :: else
  fi;
  assert(slot == NONE);  // promise 1
  executions++;
  c = executions;
  slot = c;
  size++;
  call[c].callers = 1;
  call[c].on = 1;
  call[c].refs = 1
}

inline AddFollower(c) {
  assert(call[c].refs > 0 && !call[c].landed);              // the call is in flight
  assert(!call[c].asked && !call[c].unwanted);              // promise 11
  assert(!call[c].returned);                                // promise 2
  call[c].has_state = 1;
  call[c].callers++;
  call[c].on++;
  call[c].refs++
}

inline ForgetUnlessForgotten(c) {
  if
  :: !call[c].forgotten -> Forget(c)
  :: else
  fi
}

// Sets `unwanted`: the stop of the call must be requested.
inline Abandon(c, unwanted) {
#ifndef FAULT_leave_without_forget
  ForgetUnlessForgotten(c);
#endif
  call[c].unwanted = 1;
  unwanted = 1
}

inline DropCaller(c, unwanted) {
  assert(call[c].refs > 0 && !call[c].landed && call[c].callers > 0);
  call[c].callers--;
  unwanted = 0;
  if
#ifdef FAULT_forgets_what_cannot_stop
  :: call[c].callers == 0 -> Abandon(c, unwanted)
#else
  :: call[c].callers == 0 && call[c].takes_stop -> Abandon(c, unwanted)
#endif
  :: else
  fi
}

// ---- Asking again

// Makes the other followers of call f that will ask again callers of call c.
inline BringOthers(c, f) {
  assert(!call[f].tried_again);  // promise 17
  call[f].tried_again = 1;
#ifndef FAULT_everyone_tries_again
  if
  :: call[f].retriers > 0 ->
    call[c].callers = call[c].callers + call[f].retriers;
    call[c].on = call[c].on + call[f].retriers;
    call[c].refs = call[c].refs + call[f].retriers;
    call[f].expected = call[f].retriers;
    call[f].retriers = 0;
    call[f].second_try = c;
#ifndef FAULT_latecomers_read_too_early
    call[c].has_latecomers = 1
#endif
  :: else
  fi
#endif
}

inline Close(c) {
  assert(call[c].refs > 0 && !call[c].landed);  // a call lands once
  Remove(c);
  landings++;
  call[c].landed = 1;
#ifdef FAULT_left_leader_not_counted
  call[c].shared = (call[c].callers > 1);
#else
#ifndef FAULT_shared_read_outside_lock
  call[c].shared = (call[c].callers + call[c].leader_left > 1);
#endif
#endif
  call[c].owed = call[c].on
}

// A process has touched call c for the last time. When no process may touch it any more, its counts
// must add up.
inline Release(c) {
  assert(call[c].refs > 0);
  call[c].refs--;
  if
  :: call[c].refs == 0 ->
    assert(call[c].landed && call[c].took == call[c].owed);  // promise 1: each gets one outcome
    assert(call[c].shared == (call[c].owed > 1));            // promise 4
    assert(call[c].asked || !call[c].unwanted);              // promise 11
    assert(call[c].takes_stop || !call[c].unwanted);         // promise 11
    // Promise 17: of the callers that ask again after a failure, none is counted elsewhere too.
    assert(call[c].expected == 0 && (call[c].retriers == 0 || !call[c].tried_again));
    assert(call[c].first == NONE && call[c].last == NONE);
    // This merges states that differ only in calls that are over.
    call[c].callers = 0;
    call[c].leader_left = 0;
    call[c].forgotten = 0;
    call[c].has_state = 0;
    call[c].takes_stop = 0;
    call[c].asked = 0;
    call[c].retriers = 0;
    call[c].second_try = NONE;
    call[c].has_latecomers = 0;
    call[c].tried_again = 0;
    call[c].shared = 0;
    call[c].outcome = UNSET;
    call[c].broadcast = 0;
    call[c].published = 0;
    call[c].async = 0;
    call[c].phase = LAUNCHED;
    call[c].posted = 0;
    call[c].returned = 0;
    call[c].on = 0;
    call[c].owed = 0;
    call[c].took = 0;
    call[c].unwanted = 0;
    call[c].ran = 0
  :: else
  fi;
  c = NONE
}

// ---- The list of waiters

inline Link(w, c) {
  node[w].alive = 1;
  node[w].prev = call[c].last;
  if
  :: call[c].last != NONE -> assert(node[call[c].last].alive); node[call[c].last].next = w
  :: else -> call[c].first = w
  fi;
  call[c].last = w
}

// Links the first waiter of a new call.
inline LinkFirst(w, c) {
  assert(call[c].first == NONE && call[c].last == NONE);
  node[w].alive = 1;
  call[c].first = w;
  call[c].last = w
}

inline Unlink(w, c) {
  if
  :: node[w].prev != NONE ->
    assert(node[node[w].prev].alive);
    node[node[w].prev].next = node[w].next
  :: else -> call[c].first = node[w].next
  fi;
  if
  :: node[w].next != NONE ->
    assert(node[node[w].next].alive);
    node[node[w].next].prev = node[w].prev
  :: else -> call[c].last = node[w].prev
  fi;
  node[w].left = 1
}

// The waiter's memory is given back.
inline DestroyNode(w) {
  assert(node[w].alive);
  assert(node[w].left != node[w].set);  // promise 10: it was notified once, or has left
  node[w].alive = 0;
  node[w].prev = NONE;
  node[w].next = NONE;
  node[w].notified = 0;
  node[w].set = 0;
  node[w].interrupted = 0;
  node[w].left = 0
}

inline SetEvent(w) {
  assert(node[w].alive && !node[w].left && !node[w].set);  // promise 10
  node[w].set = 1;
  node[w].asleep = 0
}

// ---- Getting the outcome

inline TakeResult(c) {
  assert(call[c].landed);  // promise 2
  assert(call[c].outcome == VALUE || call[c].outcome == FAILURE || call[c].outcome == VANISHED);
  if
  :: !call[c].shared -> call[c].outcome = ENDED
  :: else
  fi;
  call[c].took++;
  call[c].returned = 1
}

// A caller that was to get the outcome does not take it.
inline DropOutcome(c) {
  assert(call[c].landed);
  call[c].took++
}

// This is SharedState::Publish, on the thread that lands call c.
inline PublishAndNotify(c, w) {
  atomic {
    skip;
Broadcast:
    assert(call[c].outcome != UNSET);
    if
    :: call[c].broadcast -> call[c].published = 1
    :: else
    fi;
PopWaiter:
    w = call[c].first;
    if
    :: w == NONE -> goto Notified
    :: else
    fi;
    assert(node[w].alive);
#ifndef FAULT_next_read_after_waking
    call[c].first = node[w].next;
    if
    :: call[c].first != NONE -> node[call[c].first].prev = NONE
    :: else -> call[c].last = NONE
    fi;
#endif
    node[w].notified = 1
  }
OnLanded:
  atomic { SetEvent(w) }
#ifdef FAULT_next_read_after_waking
  atomic {
    assert(node[w].alive);
    call[c].first = node[w].next;
    if
    :: call[c].first != NONE -> node[call[c].first].prev = NONE
    :: else -> call[c].last = NONE
    fi
  }
#endif
  goto PopWaiter
}

// ---- A caller

proctype Caller(byte me) {
  byte asks = ASKS;
  byte kind = 0;
  byte c = NONE;
  byte f = NONE;  // the call that has failed, while this caller asks again
  byte w = NONE;
  byte outcome = UNSET;
  bit left;
  bit unwanted;  // it was the last to leave, and must request the call's stop
  bit parked;    // it is outside the group, which may be destroyed
#ifdef FAULT_find_outside_lock
  byte found = NONE;
#endif
#ifdef FAULT_count_read_outside_lock
  byte count = 0;
#endif
#ifdef FAULT_second_try_read_outside_lock
  byte expected = 0;
#endif

Ask:
#ifdef FAULT_find_outside_lock
  found = slot;
#endif
JoinOrLead:
  atomic {
    started + 1 >= me;
    if
    :: started < me -> started++
    :: else
    fi;
    if
    :: KINDS & DO -> kind = DO
    :: KINDS & RETRY -> kind = RETRY
    :: KINDS & TIMED -> kind = TIMED
    :: KINDS & STOPPED -> kind = STOPPED
    :: KINDS & WAITER -> kind = WAITER
    :: KINDS & FUTURE -> kind = FUTURE
    fi;
    Lock();
    if
#ifdef FAULT_find_outside_lock
    :: found != NONE ->
      c = found;
      found = NONE;
#else
    :: slot != NONE ->
      c = slot;
#endif
      AddFollower(c);
      if
      :: kind == RETRY -> call[c].retriers++
      :: else
      fi;
      if
      :: kind == DO || kind == RETRY || kind == FUTURE ->  // PrepareToBlock
#ifdef FAULT_broadcast_not_prepared
        call[c].broadcast = call[c].async
#else
        call[c].broadcast = 1
#endif
      :: else -> Link(me, c)
      fi;
      UnlockCounted(c);
      if
      :: kind == DO || kind == RETRY -> goto Block
      :: kind == TIMED -> goto WaitOrInterrupt
      :: kind == STOPPED -> stop[me].callback = INTERRUPT; goto WaitOrInterrupt
      :: kind == STOPPED -> goto WaitOrInterrupt  // its stop will not be requested
      :: kind == WAITER || kind == FUTURE -> goto Joined
      fi
#ifdef FAULT_find_outside_lock
    :: found == NONE ->
#else
    :: slot == NONE || AGE ->
#endif
      Begin(c);
      if
      :: kind == WAITER || kind == FUTURE ->
        call[c].async = 1;
        call[c].has_state = 1;
        async_calls++;
        if
        :: kind == WAITER -> LinkFirst(me, c)
        :: else -> call[c].broadcast = 1
        fi;
        UnlockCounted(c);
        goto LaunchCall
      :: kind == STOPPED ->
        stop[me].callback = LEADER_LEAVES;
        stop[me].call = c;
        if
        :: TAKES & (EARLY | LATE) -> call[c].takes_stop = 1
        :: TAKES & NEVER
        fi
      :: !(kind == WAITER || kind == FUTURE)
      fi;
      UnlockCounted(c)
    fi
  }

  // RunAndLand.
Execute:
  atomic {
    assert(!call[c].ran);  // promise 1
    call[c].ran = 1;
    if
    :: outcome = VALUE
    :: FAILS -> outcome = FAILURE  // or the thread is cancelled
    fi;
#ifdef FAULT_publish_before_unlink
    call[c].outcome = outcome;
    call[c].published = call[c].broadcast
  }
  atomic {
    skip;
#endif
#ifdef FAULT_shared_read_outside_lock
    call[c].shared = (call[c].callers + call[c].leader_left > 1)
  }
  atomic {
    skip;
#endif
EndOfStopCallback:
#ifdef FAULT_callback_not_awaited
    true;
#else
    !stop[me].running;
#endif
    stop[me].callback = 0;
    stop[me].call = NONE;
LandAlone:
    Lock();
    if
    :: call[c].has_latecomers || call[c].retriers > 0 -> Unlock(); goto Share
    :: else
    fi;
    Close(c);
    UnlockCounted(c);
    if
    :: call[c].has_state && call[c].shared
    :: else ->  // nobody else is on the call: the leader takes the outcome as it is
      call[c].took++;
      call[c].returned = 1;
      goto Return
    fi
  }
SetOutcome:
  atomic {
    call[c].outcome = outcome;
    goto Broadcast
  }
  // The outcome comes first, for latecomers and for retriers that are detached: they read it as
  // soon as the shard is unlocked.
Share:
  atomic {
    call[c].outcome = outcome;
    Lock();
    Close(c);
    UnlockCounted(c);
    goto Broadcast
  }
  PublishAndNotify(c, w);
  atomic {
    skip;
Notified:
    TakeResult(c);
    goto Return
  }

  // A blocking follower and a Future's Get wait here.
Block:
  atomic {
    call[c].published ->
    if
    :: kind == RETRY && call[c].outcome != VALUE && call[c].outcome != ENDED ->
      TakeResult(c);
      if
      :: kind = DO  // what it gets now is final
      :: LEAVES -> kind = TIMED
      fi;
      f = c;
      c = NONE;
      if
      :: goto AskAgain
      :: goto GiveUp  // its stop was requested
      fi
    :: else -> TakeResult(c)
    fi;
    goto Return
  }
#ifdef FAULT_second_try_read_outside_lock
AskAgain:
  expected = call[f].expected;
  atomic {
    skip;
#else
  atomic {
    skip;
AskAgain:
#endif
    Lock();
    if
#ifdef FAULT_second_try_read_outside_lock
    :: expected > 0 ->
      expected = 0;
#else
    :: call[f].expected > 0 ->
#endif
      call[f].expected--;
      c = call[f].second_try;
      assert(c != NONE && call[c].refs > 0);
      Release(f);
      if
      :: call[c].landed -> Unlock(); goto TakeLate
      :: else -> goto WaitForSecondTry
      fi
    :: else ->
      assert(call[f].retriers > 0);
      call[f].retriers--;
      if
      :: slot != NONE ->
        c = slot;
        AddFollower(c);
        BringOthers(c, f);
        Release(f);
WaitForSecondTry:
        if
        :: kind == DO -> call[c].broadcast = 1; UnlockCounted(c); goto Block
        :: kind == TIMED -> Link(me, c); UnlockCounted(c); goto WaitOrInterrupt
        fi
      :: slot == NONE || AGE ->
        Begin(c);
        call[c].has_state = 1;
        BringOthers(c, f);
        UnlockCounted(c);
        Release(f);
        goto Execute
      fi
    fi
  }
TakeLate:
  atomic {
    TakeResult(c);
    goto Return
  }
  atomic {
    skip;
GiveUp:
    Lock();
    if
    :: call[f].expected > 0 ->
      call[f].expected--;
      c = call[f].second_try;
      if
      :: call[c].landed -> DropOutcome(c); Unlock()
      :: else ->
#ifndef FAULT_gives_up_but_counts
        DropCaller(c, unwanted);
#endif
        call[c].on--;
        UnlockCounted(c)
      fi;
      Release(f)
    :: else ->
      call[f].retriers--;
      c = f;
      f = NONE;
      Unlock()
    fi
  }
  // As in RequestStop.
  atomic {
    if
    :: unwanted -> call[c].asked = 1; unwanted = 0
    :: else
    fi;
    goto Return
  }

  // A blocking follower that may leave waits here.
  atomic {
    skip;
WaitOrInterrupt:
    if
    :: node[me].set -> goto EndOfInterrupt
    :: !node[me].set && (node[me].interrupted || kind == TIMED) -> left = 1; goto EndOfInterrupt
    :: !node[me].set && !node[me].interrupted
    fi;
#ifdef FAULT_lost_wake_up
    goto Sleep
  }
Sleep:
  atomic {
#endif
    node[me].asleep = 1
  }
  atomic {
    if
    :: !node[me].asleep -> goto WaitOrInterrupt
    :: kind == TIMED && node[me].asleep -> node[me].asleep = 0; left = 1
    fi;
EndOfInterrupt:
    !stop[me].running;
    stop[me].callback = 0;
    if
    :: left -> goto Leave
    :: else -> goto HasLeft
    fi
  }

  // The caller was too late to leave: OnLanded is on its way.
Await:
  atomic {
#ifdef FAULT_leave_result_ignored
    node[me].left = 1;
    left = 1;
    goto HasLeft;
#endif
    if
    :: node[me].set -> goto HasLeft
    :: else -> node[me].asleep = 1
    fi
  }
  atomic { !node[me].asleep -> goto Await }

  // An asynchronous call is launched. Join holds a Lead as long as `launch` may still throw. It
  // makes no difference who drops the last Lead.
  atomic {
    skip;
LaunchCall:
    call[c].posted = 1;
    call[c].leads = 1;
    call[c].refs++;
    if
    :: TAKES & EARLY -> call[c].takes_stop = 1  // a Task takes the token when it is made
    :: TAKES & (NEVER | LATE)
    fi;
    if
    :: THROWS ->
      call[c].leads = 2;
      call[c].refs++;
      launching[me] = c
    :: true -> goto Joined
    fi
  }
LaunchHasThrown:
  atomic {
    launching[me] == NONE;
Joined:
    if
    :: kind == FUTURE -> goto Block
    :: kind == WAITER -> goto AwaitOnLanded
    :: goto Leave
    :: OUTLIVE && asks == 1 -> parked = 1; inside--
    fi;
    if
    :: kind == FUTURE -> goto Block
    :: kind == WAITER -> goto AwaitOnLanded
    :: group_gone -> goto Leave
    fi
  }
AwaitOnLanded:
  atomic {
    node[me].set;
    if
    :: TakeResult(c)
    :: DropOutcome(c)  // DropResult
    fi;
    DestroyNode(me);
    goto Return
  }

  // This is SharedState::Leave, for a Waiter or a Future.
Leave:
  atomic {
    if
    :: call[c].landed -> goto NotLeft  // HasLanded
    :: else
    fi;
#ifdef FAULT_count_read_outside_lock
    count = call[c].callers
  }
  atomic {
#endif
#ifdef FAULT_landed_not_checked_under_lock
    skip
  }
  atomic {
#endif
#ifdef FAULT_stop_before_lock
    if
    :: call[c].callers == 1 -> call[c].asked = 1
    :: else
    fi
  }
  atomic {
#endif
    skip;
LedgerStateLeave:
    Lock();
#if defined(FAULT_count_read_outside_lock) || defined(FAULT_stop_before_lock)
    if
    :: call[c].landed -> goto NotLeft
    :: else
    fi;
#endif
#ifdef FAULT_count_read_outside_lock
    call[c].callers = count;
    count = 0;
#endif
    if
    :: node[me].alive ->
#ifdef FAULT_not_unlinked
      node[me].left = 1
#else
      Unlink(me, c)
#endif
    :: else
    fi;
    DropCaller(c, unwanted);
    call[c].on--;
    left = 1;
    UnlockCounted(c)
  }
RequestStop:
  atomic {
    if
    :: unwanted -> call[c].asked = 1; unwanted = 0
    :: else
    fi;
    if
    :: kind == FUTURE -> goto Return
    :: else
    fi;
HasLeft:
    DestroyNode(me);
    if
    :: !left -> TakeResult(c)
    :: else
    fi;
    goto Return
  }
  atomic {
    skip;
NotLeft:
    left = 0;
    if
    :: kind == TIMED || kind == STOPPED -> goto Await
    :: kind == WAITER -> goto AwaitOnLanded
    :: kind == WAITER  // the waiter is to be destroyed: Detach
    :: kind == FUTURE -> DropOutcome(c); goto Return
    fi
  }
UnlinkUnlessNotified:
  atomic {
    if
#ifndef FAULT_notified_not_checked
    :: node[me].notified -> goto AwaitOnLanded
#endif
    :: else ->
      Unlink(me, c);
      DropOutcome(c);
      DestroyNode(me)
    fi;

Return:
    Release(c);
    asks--;
    kind = 0;
    left = 0;
    outcome = UNSET;
    if
    :: asks > 0 -> goto Ask
    :: else
    fi;
    if
    :: !parked -> inside--
    :: else
    fi
  }
}

// ---- A thread with a Lead of call c. Either it is the executor's (`joiner` is NONE), or caller
// `joiner` is in Join on it, and `launch` has thrown.

proctype Leader(byte c; byte joiner) {
  byte w = NONE;
  byte outcome = UNSET;
  bit even_unwanted;
  bit unwanted;  // as in Caller

endIdle:
  atomic {
    if
    :: joiner == NONE && call[c].posted -> call[c].posted = 0
    :: joiner != NONE && launching[joiner] != NONE ->
      c = launching[joiner];
      outcome = FAILURE;
      goto LandOnce
    fi;
    if
    :: FAILS -> goto DropLead  // the task is dropped
    :: THROWS && call[c].phase == LANDED -> goto DropLead
    :: call[c].phase == LAUNCHED && (TAKES & LATE) && !call[c].takes_stop ->
      call[c].phase = RUNNING;
      goto TakeStop
    :: call[c].phase == LAUNCHED && ((TAKES & NEVER) || call[c].takes_stop) ->
      call[c].phase = RUNNING;
      if
      :: THROWS -> goto Running
      :: !THROWS -> goto Execute  // it makes no difference when `fn` began
      fi
    fi
  }
  // AsyncCall::TakeStop. Its mutex keeps the call from landing meanwhile.
TakeStop:
  atomic {
#ifndef FAULT_token_of_landed_call
    !held;
    if
    :: call[c].phase == LANDED -> goto Running
    :: else
    fi;
#endif
    Lock();
    assert(call[c].refs > 0 && !call[c].landed);
    call[c].takes_stop = 1;
#ifndef FAULT_late_token_never_asked
    if
    :: call[c].callers == 0 -> Abandon(c, unwanted)
    :: else
    fi;
#endif
    UnlockCounted(c);
    if
    :: unwanted
    :: else -> goto Running
    fi
  }
RequestStop:
  atomic {
    call[c].asked = 1;
    unwanted = 0
  }
Running:
  atomic {
    skip;
Execute:
    assert(!call[c].ran);  // promise 1
    call[c].ran = 1;
    if
    :: outcome = VALUE
    :: FAILS -> outcome = FAILURE
    fi;
LandOnce:
    if
    :: call[c].phase == LANDED -> goto DropLead
    :: else
    fi;
#ifdef FAULT_land_once_not_atomic
    goto Settled
  }
Settled:
  atomic {
#endif
    call[c].phase = LANDED;
SetAsyncOutcome:
    assert(call[c].outcome == UNSET);
    call[c].outcome = outcome;
CloseAsync:
    Lock();
    if
#ifndef FAULT_value_outlives_group
    :: call[c].callers == 0 && !even_unwanted ->
#ifndef FAULT_unwanted_value_in_view
      ForgetUnlessForgotten(c);
#endif
      UnlockCounted(c);
      goto Discard
#endif
    :: else
    fi;
    Close(c);
    UnlockCounted(c);
    async_calls--;
    if
    :: draining && async_calls == 0 -> drained = 1; held = 1
    :: else -> goto Publish
    fi
  }
UnlockDrained:
  atomic {
    assert(!group_gone);  // promise 14
    held = 0
  }
Publish:
  PublishAndNotify(c, w);
Discard:
  atomic {
    call[c].outcome = ENDED;
    even_unwanted = 1;
    goto CloseAsync
  }
  atomic {
    skip;
Notified:
    skip;
DropLead:
    call[c].leads--;
    if
    :: call[c].leads == 0 && call[c].phase != LANDED ->  // ~AsyncCall
      call[c].leads = 1;
      call[c].phase = LANDED;
      outcome = VANISHED;
      goto SetAsyncOutcome
    :: else
    fi;
    outcome = UNSET;
    even_unwanted = 0;
    w = c;
    Release(w);
    if
    :: joiner != NONE -> launching[joiner] = NONE; c = NONE
    :: else
    fi;
    goto endIdle
  }
}

// ---- The thread that requests stops

proctype Stopper() {
  byte i = NONE;
  byte c = NONE;
  bit unwanted;

endIdle:
  atomic {
    if
    :: stop[1].callback != 0 -> i = 1
    :: stop[2].callback != 0 -> i = 2
    :: CALLERS > 2 && stop[CALLERS].callback != 0 -> i = CALLERS
    fi;
    stop[i].running = 1;
    if
    :: stop[i].callback == INTERRUPT -> stop[i].callback = 0; goto Interrupt
    :: stop[i].callback == LEADER_LEAVES ->
      stop[i].callback = 0;
      c = stop[i].call;
      stop[i].call = NONE
    fi
  }
LeaderLeaves:
  atomic {
    Lock();
    call[c].leader_left = 1;
    DropCaller(c, unwanted);
    UnlockCounted(c)
  }
RequestStop:
  atomic {
    if
    :: unwanted -> call[c].asked = 1; unwanted = 0
    :: else
    fi;
    c = NONE;
    goto EndOfCallback
  }
Interrupt:
  atomic {
    assert(node[i].alive);
    node[i].interrupted = 1;
    node[i].asleep = 0;
EndOfCallback:
    stop[i].running = 0;
    i = NONE;
    goto endIdle
  }
}

// ---- The thread that forgets

proctype Forgetter() {
  byte n = FORGETS;

Forgetting:
  atomic {
    Lock();
    if
    :: slot != NONE -> Forget(slot)  // Group::Forget
    :: slot != NONE && call[slot].callers + call[slot].leader_left == 1 ->
ForgetUnshared:
      Forget(slot)
    :: true  // too late
    fi;
    Unlock();
    n--;
    if
    :: n > 0 -> goto Forgetting
    :: else -> inside--
    fi
  }
}

// Never finishes, so SPIN keeps the processes started before it. To remove one would only be one
// more step.
proctype Last() {
endLast:
  false
}

// ---- The group

init {
  byte i = 1;

  atomic {
    inside = CALLERS;
    if
    :: KINDS & STOPPED -> run Stopper()
    :: else
    fi;
    if
    :: FORGETS > 0 -> inside++; run Forgetter()
    :: else
    fi;
    do
    :: i <= CALLERS ->
      run Caller(i);
      if
      :: THROWS && (KINDS & (WAITER | FUTURE)) -> run Leader(NONE, i)
      :: else
      fi;
      i++
    :: else -> break
    od;
    i = 1;
    do
    :: i <= CALLS && (KINDS & (WAITER | FUTURE)) -> run Leader(i, NONE); i++
    :: else -> break
    od;
    run Last();
    i = 0
  }
  // ~Group.
  atomic {
    inside == 0;
AskOneToStop:
    i = 1;
    do
    :: i <= CALLS ->
      if
      :: call[i].async && !call[i].landed -> call[i].asked = 1
      :: else
      fi;
      i++
    :: else -> break
    od;
    i = 0;
Drain:
    Lock();
    if
    :: async_calls == 0 -> goto Drained
    :: else -> draining = 1
    fi
  }
  atomic {
    drained;
#ifndef FAULT_setter_not_awaited
    !held;
#endif
Drained:
    group_gone = 1;
    assert(slot == NONE && size == 0 && forgotten == 0);  // the table is empty
    assert(executions == landings);                       // each call that began has landed
    i = 1;
    do
    :: i <= CALLS -> assert(call[i].owed > 0 || call[i].outcome != VALUE); i++  // promise 14
    :: else -> break
    od;
    i = 1
  }
AllDone:
  do
  :: atomic { i <= CALLS && call[i].refs == 0 -> i++ }
  :: i > CALLS -> break
  od
}

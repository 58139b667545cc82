// SPDX-License-Identifier: MIT

// This is a model of one key of a redis::Group. Processes ask, lead, follow and die. Leases expire,
// and what the server keeps for a while disappears. SPIN explores all interleavings of these steps.
// Run it with
//
//   tests/model/check                     # EVIDENCE_LONG=1 adds the larger configurations
//
// Modelled: each label is a step, or a part of one. A step is what the server does in one command,
// together with what the process that asked for it does before or after that no other process can
// tell apart. The commands are in detail/redis/lease.hpp. PROCESSES processes ask ASKS times each,
// each time with a new token. A leader's `fn` writes to a resource, possibly after a stall. With
// FENCE, the resource refuses a fence smaller than one that it has seen. In all, MISHAPS of the
// KINDS below happen, at any step.
//
// Not modelled: other keys, callers inside a process (group.pml has them), calls without a server,
// durations and the bytes of a payload are left out. So is a server that comes back with an older
// state. So is the renewal of leases: a lease that is renewed does not expire, that is all. So are
// exceptions of `fn`, which travel as values do. So are lost answers to XREAD and FORGET, because
// asking again changes nothing.
//
// The assertions say what must hold. A process that is stuck is found as an invalid end state. An
// XREAD may return without an entry, but here only if the next TAKE has something new to say.
// Processes differ only by number, so the model explores only executions in which their first steps
// come in the order of their numbers.
//
// FAULT_... plants a fault in the model. Each fault must be found.
//
// How to read the jumps: within an atomic sequence, a jump to a label inside an atomic sequence
// continues the step. A jump to a label in front of one finishes the step. A `skip` that comes
// first keeps the label after it inside the sequence.

// The bits of KINDS are the mishaps.
#define FORGET 1    // the key is forgotten
#define EXPIRE 2    // the lease of a live process expires, because it has stalled
#define CRASH 4     // a process dies, and is restarted if it was to ask again
#define LOSE 8      // the server's answer is lost, so the process repeats its command
#define LATE 16     // a TAKE is late: the server gets it after the process has asked again
#define RESTART 32  // the server is restarted and has lost everything
#define ABANDON 64  // all callers of the leader's process leave, but `fn` continues
#define GARBLE 128  // an outcome cannot be decoded
#define LINGER 256  // an outcome expires before all that wait for it have read it
// It is not a mishap if the lease of a dead process expires, or an outcome that nobody waits for.

#ifndef KINDS
#define KINDS 511
#endif
#ifndef MISHAPS
#define MISHAPS 0
#endif
#ifndef ASKS
#define ASKS 1
#endif
#ifndef FENCE
#define FENCE 1
#endif
#define PROCESSES 3

#ifdef FAULT_retry_with_new_token
#define TOKENS (PROCESSES * (ASKS + 1))
#else
#define TOKENS (PROCESSES * ASKS)
#endif
#define NONE 0  // no token or no process: both are numbered from 1
#define BIT(process) (1 << (process - 1))
#define MAY(kind) (mishaps > 0 && (KINDS & kind))
#define UNDISTURBED ((KINDS & ~LOSE) == 0)  // a lost answer excuses nothing

// The outcomes of a call.
#define UNSET 0
#define VALUE 1
#define ABANDONED 2
#define GARBLED 3

// The answers of PUBLISH. An answer of 0 means that nobody else waits.
#define SHARED 1
#define LOST 2

// The true state of a lease, whatever the server has stored of it.
#define HELD 1
#define FORGOTTEN 2

typedef Call {  // by its token
  // The server has stored these.
  bit forgotten;           // forgotten:TOKEN exists
  bit forgotten_followed;  // forgotten:TOKEN is marked as followed
  unsigned entry : 2;      // the outcome in its stream
  // These are on the way to the server: a TAKE whose answer nobody waits for, and the token that it
  // names.
  bit late;
  byte late_waited;
  // Only the assertions use these.
  unsigned fate : 2;
  bit kept;            // its process leads with it, or is asking whether it does
  bit answered;            // the server has named it to another process
  bit expired;            // its lease or its outcome has expired, or the server has lost them
  unsigned asked : 3;  // processes that asked before its outcome was published, and still ask
};

Call call[TOKENS + 1];  // call[NONE] stays empty
byte lease = NONE;      // the token that holds it
bit followed;           // the lease is marked as followed
byte clock = 0;         // the server's clock
byte seen = 0;          // the greatest fence that the resource has seen
byte mishaps = MISHAPS;
byte started = 0;
byte ended = 0;
// Only the assertions use these.
byte held = 0;        // leases that are HELD
byte owed = 0;        // leases taken but not executed yet, if UNDISTURBED
byte leads = 0;       // how many times a process was made the leader
byte newest = 0;      // the number of the last leader that has written to the resource
unsigned asking : 3;  // processes that are in a Do

// ---- The server

inline Release(t) {
  assert(lease == t);  // a late leader does not delete another's lease
  lease = NONE; followed = 0
}

inline EndForgotten(t) { call[t].forgotten = 0; call[t].forgotten_followed = 0 }

// The lease of call t is over, whatever the server has stored.
inline EndLease(t) { held = held - (call[t].fate == HELD); call[t].fate = NONE }

// The script of TAKE, for token t. It answers t if t leads, else whose outcome t waits for.
inline TakeScript(t, waited, answer) {
  if
#ifndef FAULT_own_lease_not_known
  :: lease == t -> answer = t
#endif
#ifndef FAULT_own_forgotten_lease_not_known
  :: call[t].forgotten -> answer = t
#endif
#ifndef FAULT_own_outcome_not_known
  :: call[t].entry != UNSET -> answer = t  // t has landed: nobody waits for this answer
#endif
  :: else ->
    if
#ifndef FAULT_forgotten_not_followed
    :: call[waited].forgotten ->
AnswerForgotten:
      call[waited].forgotten_followed = 1; call[waited].answered = 1; answer = waited
#endif
#ifndef FAULT_stream_not_checked
    :: call[waited].entry != UNSET ->
AnswerOutcome:
      answer = waited
#endif
    :: else ->
      if
#ifdef FAULT_take_without_nx
      :: true ->
#else
      :: lease == NONE ->
#endif
SetLease:
        lease = t; followed = 0; answer = t;
        assert(call[t].fate == NONE);
        call[t].fate = HELD; call[t].answered = 0; held++;
        assert(held == 1);  // there is only one holder
        owed = owed + UNDISTURBED;
        assert(owed <= 1)  // the previous lease was executed
      :: lease != NONE ->
AnswerHolder:
#ifndef FAULT_mark_not_atomic
        followed = 1;
#endif
        call[lease].answered = call[lease].answered || lease != t;
        answer = lease
      fi;
      // A process that waits for a call gets its outcome, and does not lead or wait for another.
      assert(waited == NONE || answer == waited || call[waited].expired)
    fi
  fi
}

inline AddEntry(t, outcome) {
  assert(call[t].fate != NONE);  // a late leader publishes nothing
  call[t].entry = outcome;
  call[t].asked = asking & ~BIT(((t - 1) % PROCESSES + 1))
}

// ---- A process

proctype Process(byte me) {
  byte asks = ASKS;
  byte token = NONE;
  byte holder = NONE;  // the token whose outcome it waits for
  bit there;           // the server said that the outcome exists
  byte fence = 0;
  byte lead = 0;
  byte outcome = UNSET;
  byte answer = 0;
  byte i = 0;

Take:
  atomic {
    if
    :: token == NONE && started + 1 >= me ->
      started = (started < me -> me : started);
      token = (ASKS - asks) * PROCESSES + me;
      asking = asking | BIT(me)
    :: token != NONE
    fi;
    call[token].kept = 1;
    if
    :: MAY(LATE) && !call[token].late ->
      mishaps--; call[token].late = 1; call[token].late_waited = holder; goto Take
    :: true
    fi;
    TakeScript(token, holder, answer);
    if
    :: MAY(LOSE) ->
      mishaps--;
      answer = 0;
#ifdef FAULT_retry_with_new_token
      token = ASKS * PROCESSES + me;
#endif
      goto Take
    :: MAY(CRASH) -> goto Crash
    :: true
    fi;
    if
    :: answer == token ->
      clock++; fence = clock; leads++; lead = leads; holder = NONE; answer = 0;
      goto Write
    :: else ->
      holder = answer; there = (call[holder].entry != UNSET); call[token].kept = 0; answer = 0
    fi
  }
#ifdef FAULT_mark_not_atomic
  atomic { followed = (lease == holder -> 1 : followed) }
#endif
#ifdef FAULT_only_new_entries_read
  if
  :: call[holder].entry != UNSET -> call[holder].entry == UNSET
  :: else
  fi;
#endif
Read:
  atomic {
    if
    :: call[holder].entry != UNSET ->
      assert(call[holder].asked & BIT(me));  // not a cache
      if
#ifdef FAULT_garbled_returned
      :: call[holder].entry != ABANDONED ->
#else
      :: call[holder].entry == VALUE ->
#endif
        assert(call[holder].entry == VALUE);  // the outcome is whole
        goto Return
      :: else -> holder = NONE; goto Take
      fi
    :: call[holder].entry != UNSET && !there -> goto Take  // XREAD has just timed out
    :: call[holder].entry == UNSET && !(lease == holder && followed) &&
#ifndef FAULT_forgotten_not_followed
        !(call[holder].forgotten && call[holder].forgotten_followed) &&
#endif
        true -> goto Take
    fi
  }

Write:
  atomic {
    if
    :: outcome == UNSET && MAY(ABANDON) -> mishaps--; outcome = ABANDONED; goto PublishScript
    :: MAY(CRASH) -> goto Crash
    :: true
    fi;
    owed = owed - UNDISTURBED;
    if
#ifndef FAULT_fence_not_checked
    :: FENCE && fence < seen ->
Refused:
      skip
#endif
    :: else ->
      if
      :: lead < newest ->
Overtaken:
        assert(!FENCE)  // no older write follows a newer one
      :: else
      fi;
      seen = fence; newest = lead
    fi;
    if
    :: outcome == ABANDONED -> goto Return
    :: else
    fi
  }
Publish:
  atomic {
    if
    :: outcome == UNSET -> outcome = VALUE
    :: outcome == UNSET && MAY(GARBLE) -> mishaps--; outcome = GARBLED
    :: outcome == UNSET && MAY(CRASH) -> goto Crash
    :: outcome != UNSET
    fi;
PublishScript:
    if
    :: lease == token ->
      answer = followed;
      Release(token)
    :: lease != token && call[token].forgotten ->
PublishForgotten:
      answer = call[token].forgotten_followed;
      EndForgotten(token)
    :: else ->
      assert(call[token].fate == NONE);  // the leader was late, or repeats its PUBLISH
      answer = (call[token].entry != UNSET -> SHARED : LOST);
#ifdef FAULT_release_without_compare
      if
      :: lease != NONE -> Release(token)
      :: else
      fi;
#endif
#ifdef FAULT_publish_without_compare
      AddEntry(token, outcome);
#endif
      goto Published
    fi;
#ifdef FAULT_release_before_entry
    goto AddTheEntry
  }
AddTheEntry:
  atomic {
#endif
    if
    :: answer == SHARED -> AddEntry(token, outcome)
    :: else
    fi;
    EndLease(token);
Published:
    assert(answer == LOST || answer == call[token].answered);  // `shared` is right
    answer = 0;
    if
    :: MAY(LOSE) -> mishaps--; goto Publish
    :: MAY(CRASH) -> goto Crash
    :: outcome == ABANDONED -> goto Write
    :: outcome != ABANDONED
    fi;
Return:
    assert(call[token].fate == NONE || (KINDS & LATE));  // nobody waits for a process that has left
    goto End
  }
  atomic {
    skip;
Crash:
    mishaps--;
End:
    call[token].kept = 0; call[token].answered = 0; asking = asking & ~BIT(me);
    i = 1;
    do
    :: i <= TOKENS -> call[i].asked = call[i].asked & asking; i++
    :: else -> break
    od;
    // This merges states that differ only in what is over.
    i = 0; token = NONE; holder = NONE; there = 0; fence = 0; lead = 0; outcome = UNSET; answer = 0;
    asks--;
    if
    :: asks > 0 -> goto Take
    :: else -> ended++
    fi
  }
}

// ---- What may happen to token t in time

proctype Time(byte t) {
  byte answer = 0;

endIdle:
  atomic {
    if
#ifndef FAULT_lease_without_expiry
    :: lease == t && (!call[t].kept || MAY(EXPIRE)) ->
Expire:
      mishaps = mishaps - call[t].kept; call[t].expired = 1;
      EndLease(t);
      Release(t)
#endif
    :: call[t].forgotten && (!call[t].kept || MAY(EXPIRE)) ->
ExpireForgotten:
      mishaps = mishaps - call[t].kept; call[t].expired = 1;
      EndLease(t);
      EndForgotten(t)
    :: call[t].entry != UNSET && (call[t].asked == 0 || MAY(LINGER)) ->
Linger:
      mishaps = mishaps - (call[t].asked != 0); call[t].expired = 1;
      call[t].entry = UNSET; call[t].asked = 0
    :: call[t].late ->
TakeLate:
      TakeScript(t, call[t].late_waited, answer);
      answer = 0; call[t].late = 0; call[t].late_waited = NONE
    fi;
    goto endIdle
  }
}

// ---- The outsider, which forgets the key and restarts the server

proctype Outsider() {
  byte i = 0;

endIdle:
  atomic {
    if
    :: lease != NONE && MAY(FORGET) ->
Forget:
#ifndef FAULT_forget_deletes
      call[lease].forgotten = 1; call[lease].forgotten_followed = followed;
#endif
      mishaps--; held--; call[lease].fate = FORGOTTEN;
      lease = NONE; followed = 0
    :: MAY(RESTART) ->
Restart:
      mishaps--; lease = NONE; followed = 0;
#ifdef FAULT_fence_forgotten_at_restart
      clock = 0;
#endif
      i = 1;
      do
      :: i <= TOKENS ->
        call[i].expired = (call[i].expired || call[i].fate != NONE || call[i].entry != UNSET);
        EndLease(i);
        EndForgotten(i);
        call[i].entry = UNSET; call[i].asked = 0; i++
      :: else -> break
      od;
      i = 0
    fi;
    goto endIdle
  }
}

// Never finishes, so SPIN keeps the processes started before it. To remove one would only be one
// more step.
proctype Last() {
endLast:
  false
}

init {
  byte i = 1;

  atomic {
    do
    :: i <= TOKENS ->
      run Time(i);
      if
      :: i <= PROCESSES -> run Process(i)
      :: else
      fi;
      i++
    :: else -> break
    od;
    run Outsider();
    run Last();
    i = 0
  }
  atomic {
    ended == PROCESSES;
    assert(owed == 0)  // no lease without an execution
  }
}

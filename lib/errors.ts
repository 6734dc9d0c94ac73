// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** Base of every error this library throws. `code` is stable; the message says what was expected and what came. */
export class TernflashError extends Error {
  /** Stable name of the kind of error: `ERR_SHAPE`, `ERR_DTYPE`, … */
  readonly code: string;

  /** An error of that code; the library throws its subclasses only. */
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
    this.name = new.target.name;
  }
}

/** A tensor's shape does not fit. `code` is `ERR_SHAPE`. */
export class ShapeError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(message: string) {
    super('ERR_SHAPE', message);
  }
}

/** A tensor's element type does not fit. `code` is `ERR_DTYPE`. */
export class DTypeError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(message: string) {
    super('ERR_DTYPE', message);
  }
}

/** A device is unknown, not usable on this machine, or tensors live on different devices. `code` is `ERR_DEVICE`. */
export class DeviceError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(message: string) {
    super('ERR_DEVICE', message);
  }
}

/** An argument or option is missing, unknown, of the wrong type or out of range. `code` is `ERR_OPTION`. */
export class OptionError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(message: string) {
    super('ERR_OPTION', message);
  }
}

/** The device has too little memory. `code` is `ERR_OUT_OF_MEMORY`. Nothing was allocated; everything else still works. */
export class OutOfMemoryError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(
    message: string,
    /** Bytes the call asked for. */
    readonly bytesRequested: number,
    /** Bytes the device had free. */
    readonly bytesFree: number,
  ) {
    super('ERR_OUT_OF_MEMORY', message);
  }
}

/**
 * A kernel found its input values unusable (an index out of range), or the device failed. Ops run after the call that queued them
 * returned, so this is thrown by the next `data()`, `item()` or `synchronize()` of the device. `code` is `ERR_KERNEL`.
 */
export class KernelError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(
    message: string,
    /** The op that failed. */
    readonly op: string,
  ) {
    super('ERR_KERNEL', message);
  }
}

/**
 * A call that cannot be part of a graph was made inside {@link capture}: it reads, brings in new data, draws random numbers or counts. `code` is
 * `ERR_CAPTURE`.
 */
export class CaptureError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(message: string) {
    super('ERR_CAPTURE', message);
  }
}

/** A training run cannot go on: its gradients are not finite, or nothing is left to learn from. `code` is `ERR_TRAINING`. */
export class TrainingError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(message: string) {
    super('ERR_TRAINING', message);
  }
}

/** A file is not what it should be. `code` is `ERR_FORMAT`. */
export class FormatError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(
    message: string,
    /** The file, as it was named in the call. */
    readonly file: string,
    /** Byte offset of the fault in the file. */
    readonly offset: number,
  ) {
    super('ERR_FORMAT', message);
  }
}

/** An optional package that the call needs is not installed. `code` is `ERR_DEPENDENCY`. */
export class DependencyError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(
    message: string,
    /** The package that is missing. */
    readonly dependency: string,
  ) {
    super('ERR_DEPENDENCY', message);
  }
}

/** A tensor was used after `dispose()`, or after the `tidy()` that made it ended. `code` is `ERR_DISPOSED`. */
export class DisposedError extends TernflashError {
  /** An error that says what was expected, and what came. */
  constructor(message: string) {
    super('ERR_DISPOSED', message);
  }
}

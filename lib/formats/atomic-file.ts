// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import * as path from 'node:path';

/** Files that are whole or not there, whenever the process or the machine stops. */

/** How the name of a file ends that is not whole yet, after the name it will have: with the process that writes it. */
const PARTIAL = /\.(\d+)\.partial$/;

/**
 * Writes a file beside its place, moves it there when it is whole, and returns when the disk has both. The former file of that name stays as it
 * was until then, also if `write` throws. What a process that was killed has left of its attempt is removed.
 */
export async function writeAtomically(file: string, write: (handle: FileHandle) => Promise<void>): Promise<void> {
  await removePartials(path.dirname(file), (name) => name === path.basename(file));
  const partial = `${file}.${process.pid}.partial`;
  const handle = await open(partial, 'w');
  try {
    await write(handle);
    await handle.sync();
    await handle.close();
    await rename(partial, file);
  } catch (error) {
    await handle.close().catch(() => undefined);
    await rm(partial, { force: true });
    throw error;
  }
  await syncFolder(path.dirname(file));
}

/** Removes from a folder what dead processes have left of files whose name `belongs`. */
export async function removePartials(folder: string, belongs: (name: string) => boolean): Promise<void> {
  for (const name of await readdir(folder)) {
    const match = PARTIAL.exec(name);
    if (match && belongs(name.slice(0, match.index)) && !isAlive(Number(match[1]))) await rm(path.join(folder, name));
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** The new name is an entry of the folder, which has to reach the disk as well. Windows cannot open folders, and keeps no such entries back. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return;
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

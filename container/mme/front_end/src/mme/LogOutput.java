package mme;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;

/**
 * Standard output, written to by a thread of its own: who reads the log may be slow, and those who write to it serve
 * requests. They wait where more than {@link #MOST_CHARACTERS} are to be written; nothing is dropped, unless the JVM has
 * no memory left.
 */
final class LogOutput extends Thread {
    static final int MOST_CHARACTERS = 1 << 20;
    private static final long END_MS = 2000; // from the end of the JVM on, for a reader that is slow

    private final OutputStream output;
    private final Object writing = new Object(); // held by whoever writes to output
    private StringBuilder waiting = new StringBuilder(); // guarded by this, as the following
    private boolean isWriting;
    private boolean isOver;

    LogOutput(OutputStream output) {
        super("log");
        setDaemon(true);
        this.output = output;
        Runtime.getRuntime().addShutdownHook(new Thread(this::finish, "log-end"));
    }

    /** Takes whole lines. */
    void write(String lines) {
        synchronized (this) {
            if (!isOver) {
                try {
                    while (waiting.length() > MOST_CHARACTERS && !isOver) {
                        wait();
                    }
                } catch (InterruptedException e) {
                    currentThread().interrupt(); // MMS ends its threads like this: they do not wait
                }
                waiting.append(lines);
                notifyAll();
                return;
            }
        }
        print(lines); // the JVM ends
    }

    @Override
    public void run() {
        while (true) {
            try {
                printWaiting();
            } catch (OutOfMemoryError e) {
                forget(); // or all would wait for ever
            }
        }
    }

    private synchronized void forget() {
        waiting = new StringBuilder();
        isWriting = false;
        notifyAll();
    }

    private void printWaiting() {
        String lines;
        synchronized (this) {
            isWriting = false;
            notifyAll();
            while (waiting.length() == 0) {
                try {
                    wait();
                } catch (InterruptedException e) {
                    // nobody has a reason to
                }
            }
            lines = waiting.toString();
            waiting.setLength(0);
            if (waiting.capacity() > 1 << 16) {
                waiting = new StringBuilder(); // a burst is over
            }
            isWriting = true;
            notifyAll();
        }
        print(lines);
    }

    private void print(String lines) {
        synchronized (writing) {
            try {
                output.write(lines.getBytes(StandardCharsets.UTF_8));
            } catch (IOException e) {
                // Nobody reads the log any more. Requests are answered all the same.
            }
        }
    }

    /** All that has been said is written; what is said from now on is written at once. */
    private synchronized void finish() {
        long end = System.nanoTime() + END_MS * 1_000_000;
        try {
            for (long left = END_MS; (isWriting || waiting.length() > 0) && left > 0; ) {
                wait(left);
                left = (end - System.nanoTime()) / 1_000_000;
            }
        } catch (InterruptedException e) {
            currentThread().interrupt();
        }
        isOver = true;
        notifyAll();
    }
}

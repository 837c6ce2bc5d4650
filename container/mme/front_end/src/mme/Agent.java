package mme;

import com.amazonaws.ml.mms.util.ConfigManager;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import software.amazon.ai.mms.servingsdk.ModelServerEndpoint;

/**
 * What Multi Model Server (MMS) loads as its one plug-in. MMS asks for plug-ins when it has read its configuration,
 * and before it makes a server. That is the moment at which {@link FrontEnd} takes over: it starts the server from
 * MMS's own parts, with the agent's in the place of those that 1.1.11 gets wrong (MMS-n: docs/mms-workarounds.md).
 *
 * <p>There is no going on without the agent: where it fails, at the start or later, the JVM ends with a line that
 * says why.
 */
public final class Agent extends ModelServerEndpoint {
    /** The server's, seen from the working folder: front_end/__init__.py has the names in it. */
    static final String PRIVATE_FOLDER = "..";

    private static final int EXIT_FAILED = 70; // EX_SOFTWARE of sysexits.h

    /** Called once, by java.util.ServiceLoader, in MMS's main thread. Never returns. */
    public Agent() {
        try {
            new FrontEnd(ConfigManager.getInstance()).run();
        } catch (Throwable e) { // also NoSuchFieldError and the like: this is not the MMS that the agent was made for
            fail(e);
        }
    }

    /** Ends the JVM at once. For what must not happen: models could disturb each other without the agent. */
    static void fail(Throwable cause) {
        try {
            cause.printStackTrace();
            System.err.println("mms-agent: the front end ends, because its agent failed: " + cause);
            System.err.flush();
        } finally {
            Runtime.getRuntime().halt(EXIT_FAILED);
        }
    }

    /** A field of MMS that it shows to nobody. */
    static Field field(Class<?> owner, String name) {
        try {
            Field field = owner.getDeclaredField(name);
            field.setAccessible(true);
            return field;
        } catch (NoSuchFieldException e) {
            throw new LinkageError(owner.getName() + " has no " + name + ": this is not MMS 1.1.11", e);
        }
    }

    /** A method of MMS that it lets nobody call. */
    static Method method(Class<?> owner, String name, Class<?>... parameters) {
        try {
            Method method = owner.getDeclaredMethod(name, parameters);
            method.setAccessible(true);
            return method;
        } catch (NoSuchMethodException e) {
            throw new LinkageError(owner.getName() + " has no " + name + ": this is not MMS 1.1.11", e);
        }
    }

    static Object get(Field field, Object owner) {
        try {
            return field.get(owner);
        } catch (IllegalAccessException e) {
            throw new LinkageError(field + " cannot be read", e); // it has been made accessible
        }
    }

    static void set(Field field, Object owner, Object value) {
        try {
            field.set(owner, value);
        } catch (IllegalAccessException e) {
            throw new LinkageError(field + " cannot be set", e); // it has been made accessible
        }
    }
}

// Goes on by itself; without this script the button does.
document.forms[0].submit();
